"""The decoder of a bundle as a folder of Hugging Face's Llama, which vLLM opens.

`emola export --keep-gptq` writes such a folder; the embedded model has none, and vLLM's CPU kernels take no heads of 16
values, which the golden checkpoint has. Here the first is read from the ONNX graph, and heads are widened with zeros.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from export.quantise.autogptq import to_tensors, write_shard
from export.quantise.linear import QuantizedLinear
from sdk.arrays import Floats
from sdk.bundles.manifest import Geometry, read_manifest
from sdk.files import write_json

Weights = Mapping[str, Floats | QuantizedLinear]
_LAYER = "model.layers.{}."


def weights_of_graph(bundle: Path) -> dict[str, Floats | QuantizedLinear]:
    """The weights of a bundle's first decoder, by their names in Hugging Face's Llama."""
    manifest = read_manifest(bundle)
    g, graph = manifest.geometry, onnx.load(bundle / manifest.variants[0].decoder).graph
    stored = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    attributes = {n.output[0]: {a.name: a.i for a in n.attribute} for n in graph.node if n.op_type == "MatMulNBits"}
    found: dict[str, Floats | QuantizedLinear] = {name: each for name, each in stored.items() if "norm" in name}
    found["model.embed_tokens.weight"] = np.load(bundle / manifest.embeddings).astype(np.float32)

    def linear(name: str) -> Floats | QuantizedLinear:
        packed = stored[f"{name}.weight"]
        if name not in attributes:
            return np.ascontiguousarray(packed.T)
        bits, group = attributes[name]["bits"], attributes[name]["block_size"]
        values = packed if bits == 8 else np.stack([packed & 15, packed >> 4], -1)
        return QuantizedLinear(values.reshape(len(packed), -1), stored[f"{name}.scales"], bits, group)

    keys = g.kv_heads * g.head_size
    for index in range(g.layers):
        layer = _LAYER.format(index)
        cuts = (("self_attn", "qkv", "qkv", [g.heads * g.head_size, keys, keys]), ("mlp", "gate_up", ("gate", "up"), 2))
        for block, name, parts, sizes in cuts:
            whole = linear(f"{layer}{name}")
            count = len(whole.values if isinstance(whole, QuantizedLinear) else whole)
            sizes = [count // 2] * 2 if sizes == 2 else sizes
            split = whole.split(sizes) if isinstance(whole, QuantizedLinear) else np.split(whole, np.cumsum(sizes)[:-1])
            found |= {f"{layer}{block}.{part}_proj.weight": each for part, each in zip(parts, split, strict=True)}
        found[f"{layer}self_attn.o_proj.weight"] = linear(f"{layer}o")
        found[f"{layer}mlp.down_proj.weight"] = linear(f"{layer}down")
    head = linear("logits")
    found["lm_head.weight"] = head.dequantize() if isinstance(head, QuantizedLinear) else head
    return found


def widened(weights: Weights, geometry: Geometry, size: int) -> dict[str, Floats | QuantizedLinear]:
    """The same model with heads of `size` values, 4 or 16 times as many: the new ones are zero.

    Rotary embeddings turn the pairs (i, i + size / 2) at the frequency theta^(-2i / size), so each old pair goes to the
    new pair of its frequency. Attention divides by the root of the size, so queries are multiplied by 2 or 4: exactly.
    """
    old, half = geometry.head_size, geometry.head_size // 2
    step, factor = size // old, (size / old) ** 0.5
    places = np.concatenate([np.arange(half) * step, size // 2 + np.arange(half) * step])

    def outputs(array: np.ndarray, empty: int) -> np.ndarray:
        heads = array.reshape(-1, old, array.shape[1])
        wide = np.full((len(heads), size, array.shape[1]), empty, array.dtype)
        wide[:, places] = heads
        return wide.reshape(-1, array.shape[1])

    def widen(name: str, weight: Floats | QuantizedLinear) -> Floats | QuantizedLinear:
        scale = factor if "q_proj" in name else 1
        if "o_proj" in name:
            if not isinstance(weight, QuantizedLinear):
                return np.ascontiguousarray(outputs(weight.T, 0).T)
            groups = np.arange(geometry.heads * size) // size * old // weight.group  # the old group of each new input
            return QuantizedLinear(
                np.ascontiguousarray(outputs(weight.values.T, 8).T),
                weight.scales[:, groups[:: weight.group]],
                weight.bits,
                weight.group,
            )
        if not isinstance(weight, QuantizedLinear):
            return outputs(weight, 0) * np.float32(scale)
        scales = outputs(weight.scales, 0) * np.float32(scale)
        return QuantizedLinear(outputs(weight.values, 8), scales, weight.bits, weight.group)

    return {name: widen(name, each) if "self_attn" in name else each for name, each in weights.items()}


def write_llama(folder: Path, weights: Weights, geometry: Geometry, *, head_size: int | None = None) -> Path:
    """Write the folder.

    Args:
        head_size: of the widened heads; None keeps the geometry's.
    """
    if head_size:
        weights = widened(weights, geometry, head_size)
    tensors, config = {}, {}
    for name, weight in weights.items():
        if isinstance(weight, QuantizedLinear):
            tensors |= to_tensors(name.removesuffix(".weight"), weight)
            config = {"bits": weight.bits, "group_size": weight.group, "sym": True, "desc_act": False, "lm_head": False}
        else:
            tensors[name] = torch.from_numpy(np.array(weight))
    folder.mkdir()
    write_shard(folder / "model.safetensors", tensors)
    model = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": geometry.hidden_size,
        "intermediate_size": geometry.intermediate_size,
        "num_hidden_layers": geometry.layers,
        "num_attention_heads": geometry.heads,
        "num_key_value_heads": geometry.kv_heads,
        "head_dim": head_size or geometry.head_size,
        "vocab_size": geometry.vocabulary,
        "max_position_embeddings": geometry.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    if config:
        model["quantization_config"] = {**config, "quant_method": "gptq", "checkpoint_format": "gptq"}
        write_json(folder / "quantize_config.json", model["quantization_config"])
    write_json(folder / "config.json", model)
    return folder

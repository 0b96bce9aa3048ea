"""Write one random Vicuna in the file formats of the peers: GGUF, Hugging Face's Llama, GPTQ, ONNX Runtime GenAI."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig
from vicuna import RandomWeights, random_vicuna

from export.quantise.autogptq import to_tensors, write_configs, write_index, write_shard
from export.quantise.gptq import GptqOptions
from export.quantise.linear import QuantizedLinear

TOKENIZER = Path(__file__).parents[1] / "tests/data/golden/llava-base"
HEADS = 32


def write_ours(folder: Path, layers: int, head_bits: int) -> None:
    random_vicuna(folder, layers, head_bits)


def write_gguf(folder: Path, layers: int, head_bits: int) -> None:
    """Write linear layers in Q4_0, the head in Q4_0 or Q8_0, and token embeddings in float16."""
    import gguf

    text = LlamaConfig()
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(text.vocab_size)
    writer.add_context_length(2048)
    writer.add_embedding_length(text.hidden_size)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(text.intermediate_size)
    writer.add_head_count(text.num_attention_heads)
    writer.add_head_count_kv(text.num_key_value_heads)
    writer.add_rope_dimension_count(text.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    for name, weight in RandomWeights(layers, head_bits).items():
        target = names.get_name(name, try_suffixes=(".weight",))
        if isinstance(weight, QuantizedLinear):
            kind = gguf.GGMLQuantizationType.Q8_0 if weight.bits == 8 else gguf.GGMLQuantizationType.Q4_0
            writer.add_tensor(target, ggml_blocks(rotary_pairs(name, weight)), raw_dtype=kind)
        else:
            writer.add_tensor(target, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rotary_pairs(name: str, linear: QuantizedLinear) -> QuantizedLinear:
    """Reorder queries and keys for GGML, where the two outputs that rotate together are neighbours."""
    if "q_proj" not in name and "k_proj" not in name:
        return linear

    def reorder(array: np.ndarray) -> np.ndarray:
        return array.reshape(HEADS, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)

    return QuantizedLinear(reorder(linear.values), reorder(linear.scales), linear.bits, linear.group)


def ggml_blocks(linear: QuantizedLinear) -> np.ndarray:
    """Return (N, bytes of a row): per 32 inputs a float16 scale, then bytes, or nibbles (j and j + 16 share a byte)."""
    outputs = len(linear.values)
    scales = np.repeat(linear.scales, linear.group // 32, axis=1).astype(np.float16)[..., None].view(np.uint8)
    values = linear.values.reshape(outputs, -1, 32)
    packed = values ^ 128 if linear.bits == 8 else values[..., :16] | values[..., 16:] << 4
    return np.concatenate([scales, packed], axis=2).reshape(outputs, -1)


def write_llama(folder: Path, layers: int, head_bits: int) -> None:
    """Write dense float16 weights."""

    def dense(name: str, weight: Any) -> dict[str, torch.Tensor]:
        array = weight.dequantize() if isinstance(weight, QuantizedLinear) else weight
        return {name: torch.from_numpy(array).half()}

    _write_hugging_face(folder, layers, head_bits, dense)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))


def write_gptq(folder: Path, layers: int, head_bits: int) -> None:
    """Write a GPTQ folder with a dense head."""

    def packed(name: str, weight: Any) -> dict[str, torch.Tensor]:
        if name == "lm_head.weight":
            return {name: torch.from_numpy(weight.dequantize()).half()}
        if isinstance(weight, QuantizedLinear):
            return to_tensors(name.removesuffix(".weight"), weight)
        return {name: torch.from_numpy(weight).half()}

    _write_hugging_face(folder, layers, head_bits, packed)


def write_genai(folder: Path, layers: int, head_bits: int) -> None:
    """Convert a GPTQ folder with GenAI's model builder, which rounds the head itself."""
    source = folder / "gptq"
    source.mkdir()
    write_gptq(source, layers, head_bits)
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(TOKENIZER / name, source / name)  # the builder asks for a tokenizer, but nothing is tokenised
    options = ["accuracy_level=4", "prune_lm_head=true", *(["algo_config=rtn_last"] if head_bits == 8 else [])]
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(folder)]
    command += ["-p", "int4", "-e", "cpu", "-c", str(folder / "cache"), "--extra_options", *options]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"the model builder failed: {error.stderr.strip().splitlines()[-1]}") from None
    shutil.rmtree(source)


def _write_hugging_face(
    folder: Path, layers: int, head_bits: int, convert: Callable[[str, Any], Mapping[str, torch.Tensor]]
) -> None:
    shards: dict[str, list[str]] = {}
    for index, (name, weight) in enumerate(RandomWeights(layers, head_bits).items()):
        shard, tensors = f"model-{index:05}.safetensors", convert(name, weight)
        write_shard(folder / shard, tensors)
        shards[shard] = sorted(tensors)
    write_index(folder, shards)
    text = LlamaConfig(num_hidden_layers=layers, rms_norm_eps=1e-5, max_position_embeddings=2048)
    write_configs(folder, text, GptqOptions(), torch.float16)


WRITERS = {
    "ours": write_ours,
    "llama.cpp": write_gguf,
    "transformers": write_llama,
    "genai": write_genai,
    "vllm": write_gptq,
}
READ_AS_OURS = ("ours-openvino", "openvino")  # peers that read our graph


def prepare(root: Path, peer: str, layers: int, head_bits: int) -> Path:
    """Return the folder of a peer's files, and write it if it does not exist.

    Raises:
        ImportError: the peer's tools are not installed.
    """
    peer = "ours" if peer in READ_AS_OURS else peer
    folder = root / f"{peer}-{layers}-{head_bits}"
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        WRITERS[peer](partial, layers, head_bits)
        os.replace(partial, folder)
    return folder

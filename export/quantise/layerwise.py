"""Stage `gptq`: quantise the decoder layer by layer from the files on disk.

Memory holds one layer, one sequence and one Hessian at any depth. The inputs of each linear layer come from the
quantised layers before it ("true sequential"). A run that was killed continues after the last layer it finished and
writes the same bytes as an uninterrupted one.
"""

import ctypes
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from export.model import geometry
from export.quantise.activations import ActivationFile
from export.quantise.autogptq import to_tensors, write_configs, write_index, write_shard
from export.quantise.gptq import GptqOptions, Hessian, quantise, relative_error
from sdk.errors import ExportError
from sdk.progress import duration
from sdk.untrusted_json import read_json_object
from trainer.checkpoint import Checkpoint
from trainer.model.processor import multiplies_bfloat16

LINEARS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)  # the layers of a line have the same inputs
_SCRATCH = "scratch"
_MMAP_THRESHOLD, _MEGABYTE = -3, 1 << 20  # M_MMAP_THRESHOLD of malloc.h
Quantise: TypeAlias = Callable[[tuple[str, ...], list[Tensor], Hessian], list[Tensor]]


def check_shapes(checkpoint: Checkpoint, options: GptqOptions) -> None:
    """Check that the decoder can be quantised with the options, without reading a weight.

    Raises:
        ExportError: names the layer that does not fit.
    """
    shape, inner = geometry(checkpoint.config), checkpoint.config.text.intermediate_size
    attention, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    options.check("q_proj", (attention, shape.hidden_size))
    options.check("k_proj and v_proj", (keys, shape.hidden_size))
    options.check("o_proj", (shape.hidden_size, attention))
    options.check("gate_proj and up_proj", (inner, shape.hidden_size))
    options.check("down_proj", (shape.hidden_size, inner))


def quantise_decoder(
    checkpoint: Checkpoint,
    rows: ActivationFile,
    folder: Path,
    options: GptqOptions,
    *,
    device: str = "cpu",
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write a decoder in the AutoGPTQ layout, starting from what an earlier run left in the folder.

    Args:
        checkpoint: complete, with LoRA merged. 16-bit weights are multiplied as bfloat16 if the device supports it.
        rows: fused sequences of `export.quantise.calibrate`.
        folder: of the quantised decoder.
        options: how to quantise.
        device: "cpu" or "cuda".
        report: called with one line per layer.

    Returns:
        `layers`: the `seconds` of each layer and the relative output `errors` of its linear layers.
    """
    check_shapes(checkpoint, options)
    _return_freed_memory()
    scratch, text = folder / _SCRATCH, checkpoint.config.text
    scratch.mkdir(exist_ok=True)
    walk = LayerWalk(checkpoint, scratch, device)
    shards: dict[str, list[str]] = {}
    for index in range(text.num_hidden_layers):
        shard = folder / f"model-layer-{index:03d}.safetensors"
        record = shard.with_suffix(".json")
        if not shard.exists():
            quantiser = _LayerQuantiser(checkpoint, index, options)
            begin = time.perf_counter()
            walk.run(index, rows if index == 0 else walk.place(index, rows), quantiser)
            seconds = round(time.perf_counter() - begin, 2)
            figures = {"seconds": seconds, "errors": quantiser.errors, "names": sorted(quantiser.tensors)}
            record.write_text(json.dumps(figures))
            write_shard(shard, quantiser.tensors)
            worst = max(quantiser.errors.values())
            left = duration(seconds * (text.num_hidden_layers - index - 1))
            report(
                f"  layer {index + 1} of {text.num_hidden_layers}: {seconds} s, largest error {100 * worst:.1f} %, "
                f"about {left} left"
            )
        walk.place(index, rows).path.unlink(missing_ok=True)
        shards[shard.name] = read_json_object(record, ExportError)["names"]
    layers = [read_json_object(path, ExportError) for path in sorted(folder.glob("model-layer-*.json"))]
    shards |= _write_rest(checkpoint, folder)
    write_index(folder, shards)
    write_configs(folder, text, options, _rest_dtype(checkpoint))
    shutil.copyfile(checkpoint.base / "tokenizer.model", folder / "tokenizer.model")
    shutil.rmtree(scratch)
    return {"layers": [{key: layer[key] for key in ("seconds", "errors")} for layer in layers]}


def _return_freed_memory() -> None:
    """Make glibc return each freed block of a megabyte or more to the system.

    By default glibc raises this size up to 32 MB as larger blocks are freed, and the heap fragments and grows layer by
    layer.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _MEGABYTE)


class _LayerQuantiser:
    """Quantises the linear layers of one decoder layer, in the order of the walk, and keeps the tensors of its file."""

    def __init__(self, checkpoint: Checkpoint, index: int, options: GptqOptions) -> None:
        self._options, self._prefix = options, f"model.layers.{index}."
        self.errors: dict[str, float] = {}
        dtype = _rest_dtype(checkpoint)
        norms = [f"{self._prefix}{name}.weight" for name in ("input_layernorm", "post_attention_layernorm")]
        self.tensors = {name: checkpoint.merged[f"language_model.{name}"].to(dtype) for name in norms}

    def __call__(self, names: tuple[str, ...], weights: list[Tensor], hessian: Hessian) -> list[Tensor]:
        found = hessian.finish()
        together = quantise(torch.cat(weights), found, self._options)
        parts = together.split([len(weight) for weight in weights])
        for name, weight, part in zip(names, weights, parts, strict=True):
            self.errors[name] = relative_error(weight, part, found)
            self.tensors |= to_tensors(f"{self._prefix}{name}", part)
        return [torch.from_numpy(part.dequantize()) for part in parts]


class LayerWalk:
    """Runs sequences through decoder layers and calls back before each group of linear layers to replace its weights.

    Args:
        checkpoint: complete, with LoRA merged.
        scratch: folder for what flows between the layers.
        device: that computes.
    """

    def __init__(self, checkpoint: Checkpoint, scratch: Path, device: str = "cpu") -> None:
        text = checkpoint.config.text
        self._weights, self._scratch, self._device = checkpoint.merged, scratch, device
        self._head_size, self._epsilon = geometry(checkpoint.config).head_size, text.rms_norm_eps
        stored = self._weights["language_model.model.layers.0.mlp.up_proj.weight"].dtype
        halved = stored != torch.float32 and (device != "cpu" or multiplies_bfloat16())
        self._dtype = torch.bfloat16 if halved else torch.float32
        self._rotary = LlamaRotaryEmbedding(text).to(device)

    def place(self, index: int, like: ActivationFile) -> ActivationFile:
        """The file of the rows that flow into a layer."""
        return ActivationFile(self._scratch / f"into-{index:03d}.bin", like.lengths)

    @torch.inference_mode()
    def run(self, index: int, rows: ActivationFile, replace: Quantise) -> ActivationFile:
        """Compute one layer.

        Args:
            index: of the layer.
            rows: (T, D) sequences that flow into it.
            replace: returns the weights to continue with, given names, weights and the Hessian of their inputs.

        Returns:
            The sequences that flow into the next layer.
        """
        get = self._reader(index)
        into, after = get("input_layernorm"), get("post_attention_layernorm")

        def linears(group: tuple[str, ...], inputs: Iterable[Tensor]) -> list[Tensor]:
            weights = [get(name) for name in group]
            hessian = Hessian(weights[0].shape[1], self._device)
            for part in inputs:
                hessian.add(part)
            return [w.to(self._device, self._dtype) for w in replace(group, weights, hessian)]

        qkv = linears(LINEARS[0], (self._norm(x, into) for x in self._read(rows)))
        attended = self._store("attended", rows, (self._attend(self._norm(x, into), qkv) for x in self._read(rows)))
        (out,) = linears(LINEARS[1], self._read(attended))
        sums = ((x, linear(a, out)) for x, a in zip(self._read(rows), self._read(attended), strict=True))
        middle = self._store("middle", rows, (x + update.float() for x, update in sums), torch.float32)
        gate, up = linears(LINEARS[2], (self._norm(x, after) for x in self._read(middle)))
        normed = (self._norm(x, after) for x in self._read(middle))
        product = self._store("product", rows, (silu(linear(x, gate)) * linear(x, up) for x in normed))
        (down,) = linears(LINEARS[3], self._read(product))
        sums = ((x, linear(p, down)) for x, p in zip(self._read(middle), self._read(product), strict=True))
        result = self.place(index + 1, rows).write(x + update.float() for x, update in sums)
        for used in (attended, middle, product):
            used.path.unlink()
        return result

    def _reader(self, index: int) -> Callable[[str], Tensor]:
        return lambda name: self._weights[f"language_model.model.layers.{index}.{name}.weight"].float()

    def _read(self, rows: ActivationFile) -> Iterator[Tensor]:
        return (sequence.to(self._device) for sequence in rows)

    def _store(
        self, name: str, like: ActivationFile, sequences: Iterable[Tensor], dtype: torch.dtype | None = None
    ) -> ActivationFile:
        return ActivationFile(self._scratch / f"{name}.bin", like.lengths, dtype or self._dtype).write(sequences)

    def _norm(self, rows: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(rows, weight.shape, weight.to(self._device), self._epsilon).to(self._dtype)

    def _attend(self, rows: Tensor, qkv: list[Tensor]) -> Tensor:
        """(T, D) normed rows -> (T, heads * size) before the output projection."""
        size = self._head_size
        query, key, value = (linear(rows, w).view(1, len(rows), -1, size).transpose(1, 2) for w in qkv)
        position = torch.arange(len(rows), device=rows.device)[None]
        query, key = apply_rotary_pos_emb(query, key, *self._rotary(rows, position))
        result = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return result.transpose(1, 2).flatten(2)[0]


def _write_rest(checkpoint: Checkpoint, folder: Path) -> dict[str, list[str]]:
    """Write embeddings, last norm and head, which are not quantised."""
    names = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    dtype = _rest_dtype(checkpoint)
    path = folder / "model-rest.safetensors"
    write_shard(path, {name: checkpoint.merged[f"language_model.{name}"].to(dtype) for name in names})
    return {path.name: list(names)}


def _rest_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The type of the weights that are not quantised: float16 if the checkpoint has 16 bits, otherwise float32."""
    stored = checkpoint.merged["language_model.model.norm.weight"].dtype
    return torch.float32 if stored == torch.float32 else torch.float16

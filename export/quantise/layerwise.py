"""Stage `gptq`: the decoder quantised layer by layer from the files on disk.

Memory holds one layer, one sequence and one Hessian, whatever the depth. Inside a layer the order is that of the data:
the inputs of each linear layer are those that the quantised layers before it give ("true sequential"). A layer that is
finished stays finished: a run that was killed continues with the next one and ends in the same bytes.
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

from export.quantise.activations import Rows
from export.quantise.autogptq import to_tensors, write_configs, write_index, write_shard
from export.quantise.gptq import GptqOptions, Hessian, quantise, relative_error
from trainer.checkpoint import Checkpoint
from trainer.model.processor import multiplies_bfloat16

LINEARS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)  # those of one line have the same inputs
_SCRATCH = "scratch"
_MMAP_THRESHOLD, _MEGABYTE = -3, 1 << 20  # M_MMAP_THRESHOLD of malloc.h
Quantise: TypeAlias = Callable[[tuple[str, ...], list[Tensor], Hessian], list[Tensor]]


def check_shapes(checkpoint: Checkpoint, options: GptqOptions) -> None:
    """Refuse, before anything is read, a decoder that the options do not fit."""
    text = checkpoint.config.text
    attention = text.num_attention_heads * text.head_dim
    keys = text.num_key_value_heads * text.head_dim
    options.check("q_proj", (attention, text.hidden_size))
    options.check("k_proj and v_proj", (keys, text.hidden_size))
    options.check("o_proj", (text.hidden_size, attention))
    options.check("gate_proj and up_proj", (text.intermediate_size, text.hidden_size))
    options.check("down_proj", (text.hidden_size, text.intermediate_size))


def quantise_decoder(
    checkpoint: Checkpoint,
    rows: Rows,
    folder: Path,
    options: GptqOptions,
    *,
    device: str = "cpu",
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Write a decoder in the AutoGPTQ layout; what an earlier run left in the folder is taken over.

    Args:
        checkpoint: complete, LoRA merged. Its 16-bit weights are multiplied as bfloat16 where the device has that.
        rows: fused sequences of `export.quantise.calibrate`.
        device: "cpu" or "cuda".
        report: told one line per layer.

    Returns:
        `layers`: for each its `seconds` and the relative output `errors` of its linear layers.
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
            step = _Step(checkpoint, index, options)
            begin = time.perf_counter()
            walk.run(index, rows if index == 0 else walk.place(index, rows), step)
            seconds = round(time.perf_counter() - begin, 2)
            record.write_text(json.dumps({"seconds": seconds, "errors": step.errors, "names": sorted(step.tensors)}))
            write_shard(shard, step.tensors)
            worst = max(step.errors.values())
            report(f"  layer {index + 1} of {text.num_hidden_layers}: {seconds} s, largest error {100 * worst:.1f} %")
        walk.place(index, rows).path.unlink(missing_ok=True)
        shards[shard.name] = json.loads(record.read_text())["names"]
    figures = [json.loads(path.read_text()) for path in sorted(folder.glob("model-layer-*.json"))]
    shards |= _write_rest(checkpoint, folder)
    write_index(folder, shards)
    write_configs(folder, text, options, _rest_dtype(checkpoint))
    shutil.copyfile(checkpoint.base / "tokenizer.model", folder / "tokenizer.model")
    shutil.rmtree(scratch)
    return {"layers": [{key: layer[key] for key in ("seconds", "errors")} for layer in figures]}


def _return_freed_memory() -> None:
    """Let glibc give each freed block of a megabyte or more back to the system.

    By itself it raises this size to 32 MB as larger blocks are freed, and its heap grows with holes, layer by layer.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _MEGABYTE)


class _Step:
    """Quantises the linear layers of one decoder layer as the walk comes to them; keeps what belongs into its file."""

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
    """Runs sequences through decoder layers, stopping before each group of linear layers to let them be replaced.

    Args:
        checkpoint: complete, LoRA merged.
        scratch: folder for what flows between the layers.
        device: where it is computed.
    """

    def __init__(self, checkpoint: Checkpoint, scratch: Path, device: str = "cpu") -> None:
        self._weights, self._text = checkpoint.merged, checkpoint.config.text
        self._scratch, self._device = scratch, device
        stored = self._weights["language_model.model.layers.0.mlp.up_proj.weight"].dtype
        halved = stored != torch.float32 and (device != "cpu" or multiplies_bfloat16())
        self._dtype = torch.bfloat16 if halved else torch.float32
        self._rotary = LlamaRotaryEmbedding(self._text).to(device)

    def place(self, index: int, like: Rows) -> Rows:
        """Where the rows that flow into a layer are kept."""
        return Rows(self._scratch / f"into-{index:03d}.bin", like.lengths)

    @torch.inference_mode()
    def run(self, index: int, rows: Rows, replace: Quantise) -> Rows:
        """One layer.

        Args:
            rows: (T, D) sequences that flow into it.
            replace: given names, weights and the Hessian of their inputs, returns the weights to go on with.

        Returns:
            What flows into the next one.
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

    def _read(self, rows: Rows) -> Iterator[Tensor]:
        return (sequence.to(self._device) for sequence in rows)

    def _store(self, name: str, like: Rows, sequences: Iterable[Tensor], dtype: torch.dtype | None = None) -> Rows:
        return Rows(self._scratch / f"{name}.bin", like.lengths, dtype or self._dtype).write(sequences)

    def _norm(self, rows: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(rows, weight.shape, weight.to(self._device), self._text.rms_norm_eps).to(self._dtype)

    def _attend(self, rows: Tensor, qkv: list[Tensor]) -> Tensor:
        """(T, D) normed rows -> (T, heads * size) before the output projection."""
        size = self._text.head_dim
        query, key, value = (linear(rows, w).view(1, len(rows), -1, size).transpose(1, 2) for w in qkv)
        position = torch.arange(len(rows), device=rows.device)[None]
        query, key = apply_rotary_pos_emb(query, key, *self._rotary(rows, position))
        result = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return result.transpose(1, 2).flatten(2)[0]


def _write_rest(checkpoint: Checkpoint, folder: Path) -> dict[str, list[str]]:
    """Embeddings, last norm and head: they stay as they are."""
    names = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    dtype = _rest_dtype(checkpoint)
    path = folder / "model-rest.safetensors"
    write_shard(path, {name: checkpoint.merged[f"language_model.{name}"].to(dtype) for name in names})
    return {path.name: list(names)}


def _rest_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """float16 where the checkpoint has 16 bits, float32 otherwise."""
    stored = checkpoint.merged["language_model.model.norm.weight"].dtype
    return torch.float32 if stored == torch.float32 else torch.float16

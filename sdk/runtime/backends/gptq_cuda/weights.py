"""The weights of a Llama in the AutoGPTQ layout, packed for the kernels of this package.

Linear layers with the same inputs become one, and their outputs are cut into panels, so that each thread block reads
one contiguous piece of memory.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdk.bundles.files import AGAIN
from sdk.bundles.manifest import Geometry
from sdk.errors import BackendError, IntegrityError
from sdk.untrusted_json import read_json, read_json_object

PANEL = 64  # outputs of a thread block
GROUPS = (32, 64, 128)  # inputs that share a scale
_PARTS = ("qweight", "scales", "qzeros")
_PACKED_ZERO_POINTS = 0x77777777  # eight zero points of 8, which AutoGPTQ stores less one


@dataclass(frozen=True)
class Linear4:
    """A 4-bit linear layer: y = W x with W[n, k] = (v - 8) * scale, where v is the 4-bit value of (n, k).

    Attributes:
        values: (panels, K / 8, panel) int32; eight inputs of one output in a word, lowest bits first.
        scales: (panels, K / group, panel) float16; 0 where the last panel is padding.
    """

    values: Tensor
    scales: Tensor

    @property
    def inputs(self) -> int:
        return 8 * self.values.shape[1]

    @property
    def outputs(self) -> int:
        """Output columns, including the padding of the last panel."""
        return self.values.shape[0] * self.values.shape[2]

    @property
    def group(self) -> int:
        return self.inputs // self.scales.shape[1]

    def nbytes(self) -> int:
        return self.values.nbytes + self.scales.nbytes


def pack(values: Tensor, scales: Tensor, panel: int = PANEL) -> Linear4:
    """Cut a layer of the AutoGPTQ layout into panels.

    Args:
        values: `qweight`, (K / 8, N) int32.
        scales: (K / group, N) float16.
    """
    return Linear4(_panels(values, panel), _panels(scales, panel))


def _panels(matrix: Tensor, panel: int) -> Tensor:
    """(R, N) -> (panels, R, panel)."""
    padded = torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % panel))
    return padded.view(len(matrix), -1, panel).transpose(0, 1).contiguous()


def interleave(first: Linear4, second: Linear4) -> Linear4:
    """Alternate the panels of two layers of the same shape."""
    pairs = ((first.values, second.values), (first.scales, second.scales))
    return Linear4(*(torch.stack(pair, 1).flatten(0, 1).contiguous() for pair in pairs))


@dataclass(frozen=True)
class Layer:
    """One decoder layer; norms are (D,) float32."""

    input_norm: Tensor
    qkv: Linear4
    out: Linear4
    post_norm: Tensor
    gate_up: Linear4  # interleaved
    down: Linear4

    @property
    def linears(self) -> tuple[Linear4, ...]:
        return self.qkv, self.out, self.gate_up, self.down


@dataclass(frozen=True)
class LlamaWeights:
    """Weights and constants of the decoder.

    Attributes:
        table: (vocabulary, D) embeddings.
        norm: (D,) float32 weight of the last norm.
        head: (vocabulary, D) in the precision of activations; GPTQ leaves it unquantised.
        cos, sin: (context, head size / 2) float32.
    """

    geometry: Geometry
    epsilon: float
    table: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Tensor
    cos: Tensor
    sin: Tensor

    def dense_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of the linear layers in `dtype`."""
        return dtype.itemsize * sum(linear.inputs * linear.outputs for layer in self.layers for linear in layer.linears)


def rotary_tables(theta: float, geometry: Geometry, device: str) -> tuple[Tensor, Tensor]:
    """(context, head size / 2) cosines and sines of the rotary angles, computed in float64."""
    size = geometry.head_size
    frequency = theta ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.outer(torch.arange(geometry.context, dtype=torch.float64), frequency)
    return angle.cos().float().to(device), angle.sin().float().to(device)


def computes_heads(size: int) -> bool:
    """Whether the kernels support this head size; it must be a power of two."""
    return size & (size - 1) == 0


def read_llama(folder: Path, geometry: Geometry, table: Tensor, device: str, dtype: torch.dtype) -> LlamaWeights:
    """Read a folder in the AutoGPTQ layout.

    Args:
        folder: holds `config.json` and safetensors files.
        table: (vocabulary, D) embeddings of the bundle.
        device: "cuda" or "cpu".
        dtype: type of the head.

    Raises:
        BackendError: the kernels do not support the quantisation or the head size.
        IntegrityError: files or tensors are missing or damaged.
    """
    if not computes_heads(geometry.head_size):
        raise BackendError(
            f"{folder}: its heads have {geometry.head_size} dimensions; the GPU kernels support powers of two such as "
            "64 or 128. Use another variant"
        )
    config = _read_config(folder)
    files = _Files(folder, device)
    layers = tuple(_read_layer(files, f"model.layers.{index}.") for index in range(geometry.layers))
    cos, sin = rotary_tables(_theta(config), geometry, device)
    return LlamaWeights(
        geometry,
        float(config["rms_norm_eps"]),
        table.to(device),
        layers,
        files["model.norm.weight"].float(),
        files["lm_head.weight"].to(dtype),
        cos,
        sin,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    """Read `config.json` and check that the kernels support its quantisation."""
    try:
        config = read_json_object(folder / "config.json", IntegrityError, advice=AGAIN)
        extra = folder / "quantize_config.json"
        found = read_json(extra, IntegrityError, advice=AGAIN) if extra.is_file() else config["quantization_config"]
        methods = {found.get(key) or "gptq" for key in ("quant_method", "method")}  # newer tools write "method"
        layout = found.get("checkpoint_format") or found.get("format") or "gptq"
        varied = bool(found.get("dynamic")) or (bool(found.get("desc_act")) and not found.get("static_groups"))
        kind = found["bits"], found["sym"], layout, methods, varied
        float(config["rms_norm_eps"])  # `read_llama` needs it
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{folder}: expected a GPTQ folder with config.json: {error!r}; export again") from None
    if kind != (4, True, "gptq", {"gptq"}, False):
        raise BackendError(
            f"{folder}: the GPU kernels compute symmetric GPTQ in 4 bits (checkpoint_format gptq), found {found}; "
            "export with --bits 4, or use another variant"
        )
    return config


def _theta(config: Mapping[str, Any]) -> float:
    parameters = config.get("rope_parameters") or {}
    return float(config.get("rope_theta") or parameters.get("rope_theta") or 10000.0)


class _Files(Mapping[str, Tensor]):
    """The tensors of all safetensors files of a folder, each read on access."""

    def __init__(self, folder: Path, device: str) -> None:
        self._folder, self._places = folder, {}  # type: Path, dict[str, Any]
        try:
            for path in sorted(folder.glob("*.safetensors")):
                file = safe_open(path, framework="pt", device=device)
                self._places |= dict.fromkeys(file.keys(), file)
        except (OSError, SafetensorError) as error:
            raise IntegrityError(f"{path}: {error}; copy the bundle again") from None

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._places:
            raise IntegrityError(f"{self._folder}: {name} is missing; expected a quantised Llama")
        try:
            tensor: Tensor = self._places[name].get_tensor(name)
        except (OSError, ValueError, SafetensorError) as error:
            raise IntegrityError(f"{self._folder}: {name} cannot be read ({error}); {AGAIN}") from None
        return tensor

    def optional(self, name: str) -> Tensor | None:
        """A tensor that some tools leave out."""
        return self[name] if name in self._places else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _read_layer(files: _Files, prefix: str) -> Layer:
    def parts(*names: str) -> list[tuple[Tensor, Tensor]]:
        return [_read_linear(files, prefix + name) for name in names]

    qkv = parts("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    (out,) = parts("self_attn.o_proj")
    gate, up, down = parts("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    return Layer(
        files[f"{prefix}input_layernorm.weight"].float(),
        pack(torch.cat([values for values, _ in qkv], dim=1), torch.cat([scales for _, scales in qkv], dim=1)),
        pack(*out),
        files[f"{prefix}post_attention_layernorm.weight"].float(),
        interleave(pack(*gate), pack(*up)),
        pack(*down),
    )


def _read_linear(files: _Files, name: str) -> tuple[Tensor, Tensor]:
    """Read (K / 8, N) values and (K / group, N) scales; check that zero points and group order need no storage."""
    values, scales, zeros = (files[f"{name}.{part}"] for part in _PARTS)
    shapes = tuple(values.shape), tuple(scales.shape)
    inputs = 8 * len(values)
    if [len(shape) for shape in shapes] != [2, 2] or not len(scales) or inputs % len(scales):
        raise IntegrityError(f"{name}: its tensors have the shapes {shapes}; {AGAIN}")
    if values.shape[1] != scales.shape[1]:
        raise IntegrityError(f"{name}: its tensors have shapes that do not fit: {shapes}; {AGAIN}")
    group = inputs // len(scales)
    if group not in GROUPS:
        raise BackendError(f"{name}: the GPU kernels support groups of 32, 64 or 128 inputs, found {group}")
    if (zeros != _PACKED_ZERO_POINTS).any():
        raise BackendError(f"{name}: its zero points vary; expected a symmetric quantisation (sym=True)")
    order, bias = files.optional(f"{name}.g_idx"), files.optional(f"{name}.bias")
    if bias is not None and bias.any():  # auto-gptq writes zeros
        raise BackendError(f"{name} has a bias; expected the linear layers of a Llama, which have none")
    if order is not None and order.shape != (inputs,):
        raise IntegrityError(f"{name}: its group order has shape {tuple(order.shape)}, expected ({inputs},); {AGAIN}")
    if order is not None and (order != torch.arange(inputs, device=order.device) // group).any():
        raise BackendError(f"{name}: its groups are not of consecutive inputs; expected desc_act=False")
    return values, scales.half()

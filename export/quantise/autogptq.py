"""The file layout of AutoGPTQ, which transformers, vLLM, GPTQModel and ONNX Runtime GenAI read.

Tensors of each linear layer: `qweight` (K * bits / 32, N) int32, the values packed along K; `qzeros` (K / group,
N * bits / 32) int32, packed along N, each one less than the zero point; `scales` (K / group, N) float16; `g_idx` (K,)
the group of each input, which old tools leave out; auto-gptq adds a `bias` (N,) of zeros. The settings are in
`quantize_config.json` and again in `config.json`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig

from export.model import rope_theta
from export.quantise.gptq import GptqOptions
from export.quantise.linear import GROUP, QuantizedLinear, fitting_group
from sdk.arrays import Floats
from sdk.errors import ExportError
from sdk.files import replacing, write_json
from trainer.model.config import read_json
from trainer.model.weights import WeightFiles, weight_files

Words = npt.NDArray[np.uint32]
_PARTS = ("qweight", "qzeros", "scales", "g_idx")
_FORMATS = ("gptq", "gptq_v2")


def pack(values: npt.NDArray[np.uint8], bits: int) -> Words:
    """Pack (K, N) values as (K * bits / 32, N) words: 32 rows become `bits` words, lowest bits first."""
    rows = values.reshape(-1, 32, values.shape[1]).astype(np.uint32)
    words = np.zeros((len(rows), bits, values.shape[1]), np.uint32)
    for row in range(32):
        word, shift = divmod(row * bits, 32)
        words[:, word] |= rows[:, row] << np.uint32(shift)
        if shift + bits > 32:
            words[:, word + 1] |= rows[:, row] >> np.uint32(32 - shift)
    return words.reshape(-1, values.shape[1])


def unpack(packed: Words, bits: int) -> npt.NDArray[np.uint8]:
    """Undo `pack`."""
    words = packed.reshape(-1, bits, packed.shape[1])
    rows = np.empty((len(words), 32, packed.shape[1]), np.uint8)
    for row in range(32):
        word, shift = divmod(row * bits, 32)
        found = words[:, word] >> np.uint32(shift)
        if shift + bits > 32:
            found |= words[:, word + 1] << np.uint32(32 - shift)
        rows[:, row] = found & np.uint32(2**bits - 1)
    return rows.reshape(-1, packed.shape[1])


def to_tensors(name: str, linear: QuantizedLinear) -> dict[str, Tensor]:
    """The four tensors of a layer by name.

    Args:
        name: of the layer, without ".weight".
        linear: the layer.
    """
    zeros = np.full(linear.scales.shape, 2 ** (linear.bits - 1) - 1, np.uint8)
    groups = np.arange(linear.values.shape[1], dtype=np.int32) // linear.group
    arrays = (
        pack(linear.values.T, linear.bits).view(np.int32),
        np.ascontiguousarray(pack(zeros, linear.bits).T).view(np.int32),
        np.ascontiguousarray(linear.scales.T).astype(np.float16),
        groups,
    )
    return {f"{name}.{part}": torch.from_numpy(array) for part, array in zip(_PARTS, arrays, strict=True)}


class GptqWeights(Mapping[str, Floats | QuantizedLinear]):
    """A decoder in the AutoGPTQ layout, from this or another tool, read one layer at a time.

    The keys are the names of Hugging Face's Llama. A value is a float32 array or a quantised layer.

    Args:
        folder: with `quantize_config.json`, or a `config.json` that holds a `quantization_config`.

    Raises:
        ExportError: it is not GPTQ, or ONNX Runtime cannot run this kind of it.
        CheckpointError: files are missing or damaged.

    Attributes:
        bits: of a value.
        group: inputs that share a scale; -1 if all inputs of a layer share one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = _quantisation(folder)
        self.bits, self.group = config["bits"], config.get("group_size", -1)
        self._zero = 2 ** (self.bits - 1) - (_format(config) == "gptq")
        self._in_order = not config.get("desc_act")
        self._files = WeightFiles(_weights(folder))

    def __getitem__(self, name: str) -> Floats | QuantizedLinear:
        layer = f"language_model.{name.removesuffix('.weight')}"
        if f"{layer}.qweight" not in self._files:
            array: Floats = self._files[f"{layer}.weight"].float().numpy()
            return array
        self._check_parts(layer)
        try:
            return self._layer({part: self._files[place] for part, place in self._parts(layer).items()}).widen()
        except ExportError as error:
            raise ExportError(f"{self.folder}: {name}: {error}") from None

    def _layer(self, tensors: Mapping[str, Tensor]) -> QuantizedLinear:
        packed = {part: tensors[part].dtype for part in ("qweight", "qzeros")}
        if set(packed.values()) != {torch.int32}:
            raise ExportError(f"expected values packed in int32, found {packed}")
        if not (tensors["scales"].is_floating_point() and tensors["scales"].isfinite().all()):
            raise ExportError("scales are NaN, infinite or whole numbers; quantise it again")
        values = unpack(tensors["qweight"].numpy().view(np.uint32), self.bits).T
        scales = tensors["scales"].float().numpy().T
        group = values.shape[1] // scales.shape[1]
        if group > GROUP:  # e.g. one scale per output (group_size -1): smaller groups get the same scale
            finer = fitting_group(values.shape[1])
            group, scales = finer, np.repeat(scales, group // finer, axis=1)
        zeros = unpack(tensors["qzeros"].numpy().view(np.uint32).T, self.bits)
        if (zeros != self._zero).any():
            raise ExportError("the zero points vary; expected a symmetric quantisation (sym=True)")
        if "g_idx" in tensors:  # old tools leave it out
            g_idx = tensors["g_idx"].numpy()
            in_order = bool((g_idx == np.arange(len(g_idx)) // (len(g_idx) // len(tensors["scales"]))).all())
        else:
            in_order = self._in_order
        if not in_order:
            raise ExportError("the groups are not of consecutive inputs; expected desc_act=False or static groups")
        return QuantizedLinear(np.ascontiguousarray(values), np.ascontiguousarray(scales), self.bits, group)

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Compare names and shapes with those of a decoder without reading a weight.

        Args:
            expected: shape of each weight by its name in Hugging Face's Llama.

        Raises:
            ExportError: a weight is missing, left over, not quantised or of another shape.
        """
        names = set(self)
        wrong = sorted(names ^ set(expected))
        if wrong:
            state = "is left over" if wrong[0] in names else "is missing"
            raise ExportError(
                f"{self.folder}: {wrong[0]} {state} ({len(wrong)} in all); expected the decoder of this base"
            )
        for name, shape in expected.items():
            layer = f"language_model.{name.removesuffix('.weight')}"
            if f"{layer}.weight" in self._files:
                if name.endswith("_proj.weight"):
                    raise ExportError(f"{self.folder}: {name} is not quantised; expected every linear layer in GPTQ")
                found = self._files.shape(f"{layer}.weight")
            else:
                found = self._check_parts(layer)
            if found != shape:
                raise ExportError(f"{self.folder}: {name} is {found}, this base has {shape}; it is from another model")

    def _check_parts(self, layer: str) -> tuple[int, int]:
        """Check the tensors of a quantised layer and return the shape of its weight; reads only the bias."""
        shapes = {part: self._files.shape(name) for part, name in self._parts(layer, "bias").items()}
        missing = [part for part in _PARTS[:3] if len(shapes.get(part, ())) != 2]
        if missing:
            raise ExportError(f"{self.folder}: {layer}.{missing[0]} is missing or no matrix; copy the folder again")
        (words, outputs), groups = shapes["qweight"], shapes["scales"][0]
        inputs = words * 32 // self.bits
        expected = {"scales": (groups, outputs), "qzeros": (groups, outputs * self.bits // 32), "g_idx": (inputs,)}
        wrong = [part for part, shape in expected.items() if shapes.get(part, shape) != shape]
        if wrong or not groups or inputs % groups:
            part = wrong[0] if wrong else "scales"
            raise ExportError(
                f"{self.folder}: {layer}.{part} of shape {shapes[part]} does not fit its {inputs} inputs and {outputs} "
                "outputs; copy the folder again"
            )
        if "bias" in shapes and bool(self._files[f"{layer}.bias"].any()):  # auto-gptq writes zeros
            raise ExportError(f"{self.folder}: {layer} has a bias; expected the layers of a Llama, which have none")
        return outputs, inputs

    def _parts(self, layer: str, *more: str) -> dict[str, str]:
        """The names of the tensors of a layer that are there."""
        names = {part: f"{layer}.{part}" for part in (*_PARTS, *more)}
        return {part: name for part, name in names.items() if name in self._files}

    def __iter__(self) -> Iterator[str]:
        for name in self._files:
            layer, _, part = name.rpartition(".")
            if part == "qweight":
                yield f"{layer.removeprefix('language_model.')}.weight"
            elif f"{layer}.qweight" not in self._files:
                yield name.removeprefix("language_model.")

    def __len__(self) -> int:
        return sum(1 for _ in self)


def layout_files(folder: Path) -> list[Path]:
    """The files of the layout in a folder, weights last; other files of the folder are left out."""
    described = ("config.json", "quantize_config.json", "tokenizer.model", "model.safetensors.index.json")
    return [*(folder / name for name in described if (folder / name).is_file()), *_weights(folder)]


def _weights(folder: Path) -> list[Path]:
    """The weight files of a folder; auto-gptq puts bits and group into their names."""
    return sorted(folder.glob("gptq_model-*.safetensors")) or weight_files(folder)


def _quantisation(folder: Path) -> dict[str, Any]:
    """Read and check the settings of a quantised folder."""
    if not folder.is_dir():
        raise ExportError(f"{folder} is not a folder; expected a GPTQ checkpoint")
    path = folder / "quantize_config.json"
    found = read_json(path) if path.is_file() else read_json(folder / "config.json").get("quantization_config")
    config: dict[str, Any] = found if isinstance(found, dict) else {}
    methods = {str(config[key]).lower() for key in ("quant_method", "method") if config.get(key) is not None}
    bits = config.get("bits")
    if methods - {"gptq"} or _format(config) not in _FORMATS or type(bits) is not int or bits not in (3, 4, 8):
        raise ExportError(
            f"{folder}: expected GPTQ in 3, 4 or 8 bits and in the format {' or '.join(_FORMATS)}, found "
            f"{', '.join(sorted(methods)) or 'no method'} in {short(bits)} bits and {short(_format(config))}"
        )
    for key in ("dynamic", "lm_head", "adapter", "rotation", "is_marlin_format"):
        if config.get(key):
            raise ExportError(f"{folder}: {key} = {short(config[key])} is not supported; quantise without it")
    if config.get("pack_dtype", "int32") != "int32":
        raise ExportError(f"{folder}: expected values packed in int32, found {short(config['pack_dtype'])}")
    return config


def _format(config: Mapping[str, Any]) -> Any:
    """The layout of the tensors, by the key of AutoGPTQ or of newer tools."""
    return config.get("checkpoint_format") or config.get("format") or "gptq"


def write_configs(folder: Path, text: LlamaConfig, options: GptqOptions, dtype: torch.dtype) -> None:
    """Write `quantize_config.json` and `config.json` of a Llama, for any reader of GPTQ.

    Args:
        folder: of the quantised decoder.
        text: shape of the decoder.
        options: how it was quantised.
        dtype: of the weights that are not quantised.
    """
    quantisation = {
        "bits": options.bits,
        "group_size": options.group,
        "damp_percent": options.damping,
        "desc_act": False,  # groups are of consecutive inputs; the order of rounding does not matter to readers
        "static_groups": True,
        "sym": True,
        "true_sequential": True,
        "lm_head": False,
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
    }
    model = {
        **text.to_diff_dict(),
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rope_theta": rope_theta(text),
        "torch_dtype": str(dtype).removeprefix("torch."),
        "quantization_config": quantisation,
    }
    write_json(folder / "quantize_config.json", quantisation)
    write_json(folder / "config.json", model)


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file that is complete as soon as it has its name."""
    with replacing(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata={"format": "pt"})


def write_index(folder: Path, shards: Mapping[str, list[str]]) -> None:
    """Write `model.safetensors.index.json`.

    Args:
        folder: of the shards.
        shards: names of the tensors by file name.
    """
    places = {tensor: shard for shard, names in shards.items() for tensor in names}
    size = sum((folder / shard).stat().st_size for shard in shards)
    content = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    write_json(folder / "model.safetensors.index.json", content)

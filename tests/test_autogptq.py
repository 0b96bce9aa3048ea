"""The AutoGPTQ file layout: packing against its definition, and what another reader finds in it."""

import json

import numpy as np
import pytest
import torch

from export.quantise.autogptq import GptqWeights, pack, to_tensors, unpack, write_shard
from export.quantise.linear import QuantizedLinear
from sdk.errors import ExportError

RANDOM = np.random.default_rng(0)


def layer(bits: int, inputs: int = 128, outputs: int = 64, group: int = 32) -> QuantizedLinear:
    values = RANDOM.integers(0, 2**bits, (outputs, inputs), dtype=np.uint8)
    scales = RANDOM.uniform(0.01, 0.1, (outputs, inputs // group)).astype(np.float16).astype(np.float32)
    return QuantizedLinear(values, scales, bits, group)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_packing_is_a_stream_of_bits_from_the_lowest(bits):
    values = RANDOM.integers(0, 2**bits, (64, 5), dtype=np.uint8)
    packed = pack(values, bits)
    for column in range(5):
        number = sum(int(value) << (bits * row) for row, value in enumerate(values[:, column]))
        assert [int(word) for word in packed[:, column]] == [number >> 32 * i & 0xFFFFFFFF for i in range(2 * bits)]
    np.testing.assert_array_equal(unpack(packed, bits), values)


def test_a_layer_is_what_the_formula_of_auto_gptq_says():
    """W[n, k] = scales[g_idx[k], n] * (qweight - (qzeros + 1)), with shifts of four bits."""
    linear = layer(4)
    tensors = {name: tensor.numpy() for name, tensor in to_tensors("x", linear).items()}
    shifts = 4 * np.arange(8)
    values = (tensors["x.qweight"].view(np.uint32)[:, None] >> shifts[None, :, None] & 15).reshape(128, 64)
    zeros = (tensors["x.qzeros"].view(np.uint32)[..., None] >> shifts & 15).reshape(4, 64) + 1
    groups = tensors["x.g_idx"]
    weight = tensors["x.scales"].astype(np.float32)[groups] * (values.astype(int) - zeros[groups])
    np.testing.assert_array_equal(weight.T, linear.dequantize())
    assert {name: array.dtype.name for name, array in tensors.items()} == {
        "x.qweight": "int32",
        "x.qzeros": "int32",
        "x.scales": "float16",
        "x.g_idx": "int32",
    }


NAME = "model.layers.0.mlp.down_proj"


def write(folder, linear, changes=(), **config) -> GptqWeights:
    """Write a folder with one layer; `changes` replace tensors of it, or leave them out (None)."""
    changed = {f"{NAME}.{part}": tensor for part, tensor in dict(changes).items()}
    tensors = {name: tensor for name, tensor in (to_tensors(NAME, linear) | changed).items() if tensor is not None}
    norm = {"model.norm.weight": torch.ones(8)}
    write_shard(folder / "model.safetensors", tensors | norm)
    (folder / "quantize_config.json").write_text(json.dumps({"bits": linear.bits, **config}))
    return GptqWeights(folder)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_a_folder_is_read_back(tmp_path, bits):
    """The same weights; 3 bits come as 4, which ONNX Runtime can run."""
    linear = layer(bits)
    weights = write(tmp_path, linear)
    assert sorted(weights) == ["model.layers.0.mlp.down_proj.weight", "model.norm.weight"]
    found = weights["model.layers.0.mlp.down_proj.weight"]
    assert found.bits == max(bits, 4)
    np.testing.assert_array_equal(found.dequantize(), linear.dequantize())
    assert weights["model.norm.weight"].dtype == np.float32


def test_a_linear_layer_that_was_left_in_float_is_refused(tmp_path):
    """It would be rounded to nearest without a word; norms and the head may be in float."""
    names = ("model.norm.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.weight")
    write_shard(tmp_path / "model.safetensors", {name: torch.ones(64, 128) for name in names})
    (tmp_path / "quantize_config.json").write_text('{"bits": 4}')
    shapes = dict.fromkeys(names, (64, 128))
    with pytest.raises(ExportError, match="up_proj.weight is not quantised"):
        GptqWeights(tmp_path).check(shapes)


def test_a_config_without_quantisation_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"quantization_config": null}')
    with pytest.raises(ExportError, match="expected GPTQ in 3, 4 or 8 bits"):
        GptqWeights(tmp_path)


def test_version_2_of_the_layout_stores_zero_points_as_they_are(tmp_path):
    with pytest.raises(ExportError, match="zero points vary"):
        write(tmp_path, layer(4), checkpoint_format="gptq_v2")["model.layers.0.mlp.down_proj.weight"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bits": 2}, "in 2 bits"),
        ({"quant_method": "awq"}, "found awq"),
        ({"method": "awq", "format": "gemm"}, "found awq"),
        ({"method": "AWQ", "quant_method": "gptq"}, "found awq, gptq"),
        ({"format": "marlin"}, "'marlin'"),
        ({"checkpoint_format": "bitblas"}, "'bitblas'"),
        ({"is_marlin_format": True}, "is_marlin_format"),
        ({"lm_head": True}, "lm_head"),
        ({"adapter": {"name": "lora"}}, "adapter"),
        ({"pack_dtype": "int16"}, "packed in int32"),
        ({"bits": "4"}, "in '4' bits"),
        ({"bits": 4.0}, "in 4.0 bits"),
        ({"dynamic": {"+:.*": {"bits": 8}}}, "dynamic"),
        ({"rotation": "hadamard"}, "rotation"),  # the rows of the picture are not rotated
    ],
)
def test_other_kinds_are_refused(tmp_path, config, message):
    with pytest.raises(ExportError, match=message):
        write(tmp_path, layer(4), **config)
    with pytest.raises(ExportError, match="is not a folder"):
        GptqWeights(tmp_path / "absent")


@pytest.mark.parametrize("config", [{"method": "gptq", "format": "gptq"}, {"checkpoint_format": "gptq"}, {}])
def test_the_keys_of_old_and_new_tools_are_read(tmp_path, config):
    linear = layer(4)
    found = write(tmp_path, linear, **config)[f"{NAME}.weight"]
    np.testing.assert_array_equal(found.dequantize(), linear.dequantize())


@pytest.mark.parametrize(
    "changes", [{"bias": torch.zeros(64)}, {"g_idx": None}, {"g_idx": None, "bias": torch.zeros(64, dtype=torch.half)}]
)
def test_a_bias_of_zeros_and_a_missing_order_change_nothing(tmp_path, changes):
    """auto-gptq writes a zero bias for each layer; GPTQ-for-LLaMa wrote no g_idx. Both were refused as left over."""
    linear = layer(4)
    weights = write(tmp_path, linear, changes)
    assert sorted(weights) == [f"{NAME}.weight", "model.norm.weight"]
    weights.check({f"{NAME}.weight": (64, 128), "model.norm.weight": (8,)})
    np.testing.assert_array_equal(weights[f"{NAME}.weight"].dequantize(), linear.dequantize())


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({"bias": torch.ones(64)}, {}, "has a bias"),
        ({"g_idx": None}, {"desc_act": True}, "not of consecutive inputs"),
        ({"g_idx": torch.arange(128, dtype=torch.int32) % 4}, {}, "not of consecutive inputs"),
        ({"g_idx": torch.zeros(64, dtype=torch.int32)}, {}, "g_idx of shape"),
        ({"scales": torch.ones(4, 32)}, {}, "scales of shape"),
        ({"scales": torch.ones(3, 64)}, {}, "scales of shape|qzeros of shape"),
        ({"scales": None}, {}, "scales is missing"),
        ({"qzeros": torch.zeros(2, 2, 2)}, {}, "qzeros is missing or no matrix"),
        ({"qweight": torch.zeros(16, 64)}, {}, "packed in int32, found .*qweight.*float32"),
        ({"qweight": torch.zeros(16, 64, dtype=torch.int64)}, {}, "packed in int32"),
        ({"scales": torch.full((4, 64), float("nan"))}, {}, "scales are NaN"),
        ({"scales": torch.ones(4, 64, dtype=torch.int32)}, {}, "scales are NaN, infinite or whole numbers"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, changes, config, message):
    weights = write(tmp_path, layer(4), changes, **config)
    with pytest.raises(ExportError, match=message):
        weights[f"{NAME}.weight"]


def test_a_bias_of_another_layer_is_left_over(tmp_path):
    write_shard(tmp_path / "model.safetensors", {"model.norm.weight": torch.ones(8), "model.norm.bias": torch.ones(8)})
    (tmp_path / "quantize_config.json").write_text('{"bits": 4}')
    with pytest.raises(ExportError, match=r"model\.norm\.bias is left over"):
        GptqWeights(tmp_path).check({"model.norm.weight": (8,)})

"""The GPU reader of a GPTQ folder takes zero biases and a missing order, and refuses what changes the result."""

import json

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import save_file

from sdk.errors import BackendError, SdkError
from sdk.runtime.backends.gptq_cuda.weights import _Files, _read_config, _read_linear

SYMMETRIC = torch.full((2, 8), 0x77777777, dtype=torch.int32)
LAYER = {
    "qweight": torch.arange(8 * 64, dtype=torch.int32).view(8, 64),
    "scales": torch.ones(2, 64),
    "qzeros": SYMMETRIC,
    "g_idx": torch.arange(64, dtype=torch.int32) // 32,
}


def read(folder, **changes):
    tensors = {f"x.{part}": tensor for part, tensor in {**LAYER, **changes}.items() if tensor is not None}
    save_file(tensors, folder / "model.safetensors")
    return _read_linear(_Files(folder, "cpu"), "x")


@pytest.mark.parametrize("changes", [{}, {"g_idx": None}, {"bias": torch.zeros(64)}])
def test_a_layer_is_read(tmp_path, changes):
    values, scales = read(tmp_path, **changes)
    assert torch.equal(values, LAYER["qweight"])
    assert scales.shape == (2, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": torch.ones(64)}, "has a bias"),
        ({"g_idx": torch.arange(64, dtype=torch.int32) % 2}, "not of consecutive inputs"),
        ({"qzeros": SYMMETRIC + 1}, "zero points vary"),
        ({"scales": None}, "scales is missing"),
    ],
)
def test_a_layer_of_another_kind_is_refused(tmp_path, changes, message):
    with pytest.raises(SdkError, match=message):
        read(tmp_path, **changes)


def write_config(folder, **changes):
    found = {"bits": 4, "sym": True, **changes}
    (folder / "config.json").write_text(json.dumps({"rms_norm_eps": 1e-5, "quantization_config": found}))


@pytest.mark.parametrize(
    "changes", [{}, {"method": "gptq", "format": "gptq"}, {"desc_act": True, "static_groups": True}]
)
def test_settings_are_read_by_old_and_new_keys(tmp_path, changes):
    write_config(tmp_path, **changes)
    assert _read_config(tmp_path)["rms_norm_eps"] == 1e-5


@pytest.mark.parametrize(
    "changes",
    [{"method": "awq"}, {"quant_method": "awq"}, {"format": "gptq_v2"}, {"format": "marlin"}, {"desc_act": True}],
)
def test_other_settings_are_refused(tmp_path, changes):
    write_config(tmp_path, **changes)
    with pytest.raises(BackendError, match="the GPU kernels compute symmetric GPTQ"):
        _read_config(tmp_path)

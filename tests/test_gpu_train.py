"""benchmarks/gpu_train.py at a toy shape: the step is the real one, its figures are consistent."""

import json
import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

SCRIPT = Path(__file__).parents[1] / "benchmarks/gpu_train.py"


def test_a_tiny_step_is_measured(monkeypatch, capsys):
    """One JSON line; the loss falls on a repeated batch; utilisation = FLOPs / seconds / peak, within rounding."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--tiny", "--batch-size", "2", "--steps", "2", "--peak", "0.1"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    found = json.loads(capsys.readouterr().out)
    assert found["losses"][-1] < found["losses"][0]
    expected = found["model_tflops_per_step"] / found["seconds_per_step"] / 0.1
    assert found["mfu"] == pytest.approx(expected, rel=0.05, abs=1e-3)


def test_flops_at_7b_are_those_of_the_literature():
    """577 rows and 164 tokens, batch 16: 4 FLOPs per frozen and 6 per LoRA parameter and token, 3 % of it attention."""
    import torch

    script = runpy.run_path(str(SCRIPT))
    with torch.device("meta"):
        model = script["EmoLA"](script["llava_7b"]())
        script["prepare_model"](model, script["Recipe"]())
    tokens = 16 * 740
    flops = script["model_flops"](model, 16, tokens)
    assert flops == pytest.approx((4 * 6.476e9 + 6 * 0.3198e9) * tokens, rel=0.06)

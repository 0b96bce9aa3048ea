"""benchmarks/quantised_cache.py: what a smaller head and cache save is arithmetic, what they cost is measured."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import GOLDEN

from export.targets.plan import LLAVA_7B

torch = pytest.importorskip("torch")
RECORDS = GOLDEN / "data/FABAInstruct/train/train_anno.json"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("quantised_cache")


def test_what_8_bits_save_on_a_small_jetson(script):
    """A cache of 8 bits has 65/128 of the bytes; a head of 4 bits saves half a byte for each of 131 million weights."""
    rows = {(row["head"], row["cache"]): row for row in script.savings("orin-nano-8")}
    positions = LLAVA_7B.image_rows + LLAVA_7B.text_rows + LLAVA_7B.answer_rows
    cache = rows[8, 16]["used_gb"] - rows[8, 8]["used_gb"]
    assert cache == pytest.approx(524_288 * positions * 63 / 128 / 1e9, abs=2e-3)
    head = rows[8, 16]["used_gb"] - rows[4, 16]["used_gb"]
    assert head == pytest.approx(32000 * 4096 / 2 / 1e9, abs=2e-3)
    assert rows[8, 16]["tokens_per_s"] < rows[8, 8]["tokens_per_s"] < rows[4, 8]["tokens_per_s"]


def test_the_cache_of_a_cpu_is_32_bits_unless_it_is_rounded(script):
    assert LLAVA_7B.stored_cache(gpu=False) == 2 * LLAVA_7B.stored_cache(gpu=True) == 2 * LLAVA_7B.cache_bytes
    small = replace(LLAVA_7B, cache_bits=8)
    assert small.stored_cache(gpu=False) == small.stored_cache(gpu=True) == LLAVA_7B.cache_bytes * 65 / 128


@pytest.mark.parametrize("bits", [8, 4])
def test_each_head_is_rounded_by_half_a_step_at_most(script, bits):
    states = (
        torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1e-3, 1, 50])[None, :, None, None]
    )
    rounded = script.rounded_heads(states, bits)
    step = states.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    assert bool(((rounded - states).abs() <= 0.51 * step + 2e-7).all())
    assert bool((rounded != states).any())
    assert script.rounded_heads(states, None) is states


def test_the_costs_are_measured(script, capsys, monkeypatch):
    """Fewer bits cost more, for head and cache; 8 bits of both stay below 2 % on the golden checkpoint."""
    base, adapter, tower = (str(GOLDEN / name) for name in ("llava-base", "llava-lora-emola-trained", "clip"))
    options = ["--base", base, "--adapter", adapter, "--vision-tower", tower, "--records", str(RECORDS), "--limit", "2"]
    monkeypatch.setattr(sys, "argv", ["quantised_cache.py", *options])
    script.main()
    cost = json.loads(capsys.readouterr().out.splitlines()[-1])["cost"]
    assert {*cost} == {*script.CASES}
    errors = {name: found["relative_error"] for name, found in cost.items()}
    assert 0 < errors["cache 8"] < errors["cache 4"] / 4
    assert 0 < errors["head 8"] < errors["head 4"] / 4
    assert max(errors["head 8"], errors["cache 8"]) < errors["head 8, cache 8"] < 0.02
    assert all(0 <= found["equal"] <= 1 for found in cost.values())

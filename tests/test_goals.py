"""benchmarks/goals.py: a row says what was measured or why it was not, and a failure is not taken for a lack."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/goals.py"


@pytest.fixture
def goals(monkeypatch):
    spec = importlib.util.spec_from_file_location("goals", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "goals", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_row_shows_the_figure_or_why_there_is_none(goals):
    goal = goals.GOALS[0]
    found = {"peers": {"llama.cpp": {"prefill_ours_faster": 1.3}}}
    assert goals.measured(goal, found) == "1.30x"
    missing = {"peers": {"llama.cpp": {"skipped": "ImportError: No module named 'gguf'"}}}
    assert goals.measured(goal, missing) == "not here: ImportError: No module named 'gguf'"
    assert goals.measured(goal, {"skipped": "no build/nano"}) == "not here: no build/nano"
    assert goals.measured(goal, {"skipped": "other logits", "failed": True}) == "failed: other logits"


@pytest.mark.parametrize(
    ("script", "failed"),
    [
        ("import a_peer_that_is_not_there", False),
        ("import argparse; argparse.ArgumentParser().error('the bundle holds no answers to draft from')", False),
        ("assert 1 == 2, 'other logits'", True),
        ("raise SystemExit('it broke')", True),
    ],
)
def test_what_is_missing_is_no_failure_and_a_wrong_result_is_one(goals, tmp_path, monkeypatch, script, failed):
    (tmp_path / "peers.py").write_text(script)
    monkeypatch.setattr(goals, "HERE", tmp_path)
    found = goals.run("peers", {"layers": 1, "rounds": 1})
    assert found["failed"] is failed, found


def test_faces_that_were_not_rendered_are_named(goals, monkeypatch):
    monkeypatch.setitem(goals.RUNS, "drafting", ("drafting", "--data", str(SCRIPT.parents[1] / "build/none.json")))
    assert goals.run("drafting", {}) == {"skipped": "no build/none.json, which `make nano` renders"}

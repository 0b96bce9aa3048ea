"""Every command of docs/reproduce.md, as it is written there, on made-up folders of the same shape and a tiny model."""

import re
import shlex
import string
from pathlib import Path

import pytest
from chat_server import chat_server, completion
from conftest import GOLDEN
from made_up_datasets import write_data

pytest.importorskip("torch")

from sdk.cli import main

DOCUMENT = (Path(__file__).parents[1] / "docs/reproduce.md").read_text(encoding="utf-8")
SHORT = "--max-new-tokens 3 --limit 3"
SMALL = {
    "paper": [
        "--prepare-options=--detector none",
        "--train-options=--rank 4 --max-steps 1 --batch-size 2 --precision float32 --workers 0",
        f"--evaluate-options={SHORT}",
    ],
    "evaluate": SHORT.split(),
}


def commands() -> list[str]:
    """The shell lines of the document."""
    code = "".join(re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL))
    return code.replace("\\\n", " ").splitlines()


@pytest.fixture(scope="module")
def variables(tmp_path_factory, landmark_network) -> dict[str, str]:
    """What the document calls BASE, DATA and so on."""
    folder = tmp_path_factory.mktemp("reproduce")
    paths = {
        "BASE": GOLDEN / "llava-base",
        "CLIP": GOLDEN / "clip",
        "LANDMARKS": landmark_network,
        "DATA": write_data(folder / "data"),
        "RUNS": folder / "runs",
    }
    return {name: str(path) for name, path in paths.items()}


@pytest.mark.parametrize("line", commands())
def test_command(line, variables, monkeypatch, capsys):
    """In order, since later tables use the runs of earlier ones; the jobs of a table run in this process."""
    monkeypatch.setattr("trainer.commands.paper.command_runner", lambda launcher: main)
    with chat_server(lambda request: (200, {}, completion("A happy face."))) as (url, _):
        program, *words = shlex.split(string.Template(line).substitute(variables, ENDPOINT=url, MODEL="seer"))
        assert program == "emola"
        runs = "--base" in words
        assert main([*words, *(SMALL[words[0]] if runs else [])]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert not runs or "this run" in shown or words[0] == "evaluate"
    assert "Not run yet" not in shown or not runs


def test_no_table_is_forgotten():
    from trainer.paper.experiments import STUDIES

    assert {f"{number}" for number in range(3, 10)} <= set(STUDIES)
    assert all(any(f"table {name} " in f"{line} " for line in commands()) for name in STUDIES)

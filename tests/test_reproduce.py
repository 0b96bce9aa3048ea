"""Every command of docs/reproduce.md, as it is written there, on made-up folders of the same shape and a tiny model."""

import re
import shlex
import string
from pathlib import Path

import pytest
from chat_server import chat_server, completion
from conftest import GOLDEN
from made_up_datasets import save, write_data

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


OWN = [line for line in commands() if "AFFECTNET" in line or "data revise" in line]


@pytest.mark.parametrize("line", [line for line in commands() if line not in OWN])
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


def test_a_set_of_your_own(variables, astronaut, tmp_path, capsys):
    """Section 3.1: photographs of a face in two classes; a person drops nothing."""
    pytest.importorskip("dlib")
    for place in ("0/a.png", "1/b.png"):
        save(tmp_path / "affectnet" / place, astronaut[20:230, 110:320])
    answer = completion("The face is happy, and AU6 and AU12 are active.")
    with chat_server(lambda request: (200, {}, answer)) as (url, requests):
        named = {"ENDPOINT": url, "MODEL": "seer", "AFFECTNET": str(tmp_path / "affectnet"), "DATA": str(tmp_path)}
        for line in OWN:
            assert main(shlex.split(string.Template(line).substitute({**variables, **named}))[1:]) == 0
    assert len(requests) == 4
    assert "records" in capsys.readouterr().out
    assert (tmp_path / "faba/eval/revised/eval_au_anno.json").is_file()


def test_no_table_is_forgotten():
    from trainer.paper.experiments import STUDIES

    assert {f"{number}" for number in range(3, 10)} <= set(STUDIES)
    assert all(any(f"table {name} " in f"{line} " for line in commands()) for name in STUDIES)

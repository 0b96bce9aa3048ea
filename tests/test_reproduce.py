"""Every command of docs/reproduce.md, as it is written there, on made-up folders of the same shape and a tiny model."""

import json
import re
import shlex
import shutil
import string
import subprocess
from pathlib import Path

import pytest
from chat_server import chat_server, completion
from conftest import GOLDEN
from made_up_datasets import save, write_data

pytest.importorskip("torch")

from sdk.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs/reproduce.md").read_text(encoding="utf-8")
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


def test_table_8_and_priors_on_the_base_of_nano(small_checkpoint, landmark_network, tmp_path, monkeypatch, capsys):
    """The commands of docs/nano/README.md: without the base one clear error, with a small one figures."""
    (code,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/nano/README.md").read_text(encoding="utf-8"), re.DOTALL)
    recipe, folders, *lines = code.replace("\\\n", " ").splitlines()
    options = f"{shlex.split(recipe)[0].removeprefix('RECIPE=')} --max-steps 2 --batch-size 2"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trainer.commands.paper.command_runner", lambda launcher: main)
    write_nano(tmp_path / "build/nano", landmark_network)
    subprocess.run(folders, shell=True, check=True)
    table, training, evaluation = (shlex.split(string.Template(line).substitute(RECIPE=options))[1:] for line in lines)
    assert main([*table, f"--evaluate-options={SHORT}"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--base build/nano/base: expected a folder with config.json" in error
    assert "`make nano`" in error
    assert not Path("build/nano/paper/runs").exists()
    shutil.copytree(small_checkpoint, "build/nano/base")
    assert main([*table, f"--evaluate-options={SHORT}"]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert all(f"| {row} | this run |" in shown for row in ("H_p", "H_v", "H_v and H_p"))
    assert main(training) == 0, capsys.readouterr().err
    assert main([*evaluation, *SHORT.split()]) == 0, capsys.readouterr().err
    assert "against the other run" in capsys.readouterr().out


def write_nano(folder: Path, network: Path) -> None:
    """The golden faces where `make nano` has its renders, with landmark files that hold coordinates."""
    rows = json.loads((GOLDEN / "data/FABAInstruct/train/train_anno.json").read_text(encoding="utf-8"))[:4]
    for split in ("train", "eval"):
        shutil.copytree(GOLDEN / "data/FABAInstruct/train/images", folder / split / "images")
        for task, label, answer in (("emotion", 0, "A happy face."), ("au", "6, 12", "AU6 and AU12 are active.")):
            parts = [{f: f"{split}/{f}s/{Path(row[f]).name}" for f in ("image", "landmark")} for row in rows]
            scored = {"label": label, "gpt4": answer}
            whole = [
                {**row, **part} if split == "train" else {**part, **scored}
                for row, part in zip(rows, parts, strict=True)
            ]
            (folder / split / f"{split}_{task}_anno.json").write_text(json.dumps(whole))
        files = [str(path) for path in (folder / split).glob("*_anno.json")]
        assert main(["data", "landmarks", *files, "--network", str(network)]) == 0

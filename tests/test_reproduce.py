"""Every command of docs/reproduce.md, as it is written there, on made-up folders of the same shape and a tiny model."""

import json
import re
import shlex
import string
from pathlib import Path

import pytest
from chat_server import chat_server, completion
from conftest import GOLDEN
from made_up_datasets import save, write_bp4d, write_disfa, write_gft, write_rafdb

pytest.importorskip("torch")

from sdk.cli import main

DOCUMENT = (Path(__file__).parents[1] / "docs/reproduce.md").read_text(encoding="utf-8")
SMALL = {  # appended to the commands, where the last option wins
    "prepare": ["--detector", "none"],
    "landmarks": ["--threads", "1"],
    "train": ["--rank", "4", "--max-steps", "1", "--batch-size", "2", "--precision", "float32", "--workers", "0"],
    "evaluate": ["--max-new-tokens", "3", "--limit", "3"],
}
ANSWERS = {"emotion": ("1", "A happy face with a broad smile."), "au": ("6, 12", "AU6 and AU12 are active.")}


def sections() -> dict[str, str]:
    """Title of each part of the document -> its shell lines."""
    parts = re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)[1:]
    return {part.split(":")[0]: "".join(re.findall(r"```sh\n(.*?)```", part, re.DOTALL)) for part in parts}


def commands(lines: list[str], variables: dict[str, str]):
    """The command lines of a shell text whose only constructs are variables, `for ... do` and `done`."""
    while lines:
        line = lines.pop(0)
        if not (loop := re.fullmatch(r"for (\w+) in (.+); do", line)):
            yield shlex.split(string.Template(line).substitute(variables))
            continue
        depth, body = 1, []
        while depth:
            body.append(lines.pop(0))
            depth += body[-1].startswith("for ") - (body[-1] == "done")
        for value in loop[2].split():
            yield from commands(body[:-1], {**variables, loop[1]: value})


def run(section: str, variables: dict[str, str]) -> None:
    lines = section.replace("\\\n", " ").splitlines()
    for program, *words in commands(lines, variables):
        action = words[1] if words[0] == "data" else words[0]
        assert program == "emola"
        assert main([*words, *SMALL.get(action, [])]) == 0, " ".join(words)


def write_faba(folder: Path) -> Path:
    """The shape of FABA-Instruct, from the pictures and landmark files of the goldens."""
    source = json.loads((GOLDEN / "data/FABAInstruct/train/train_anno.json").read_text(encoding="utf-8"))[:4]
    for split in ("train", "eval"):
        (folder / split).mkdir(parents=True)
        for task, (label, answer) in ANSWERS.items():
            rows = [{**row, "id": f"{task}{index}"} for index, row in enumerate(source)]
            if split == "eval":
                rows = [{"image": r["image"], "landmark": r["landmark"], "label": label, "gpt4": answer} for r in rows]
            (folder / split / f"{split}_{task}_anno.json").write_text(json.dumps(rows))
    (folder / "FABAInstruct").symlink_to(GOLDEN / "data/FABAInstruct")
    return folder


@pytest.fixture(scope="module")
def variables(tmp_path_factory, landmark_network) -> dict[str, str]:
    """What the document calls BASE, DATA and so on."""
    folder = tmp_path_factory.mktemp("reproduce")
    labels = {f"{split}_0000{n}": n for split in ("train", "test") for n in (1, 4, 7)}
    paths = {
        "BASE": GOLDEN / "llava-base",
        "CLIP": GOLDEN / "clip",
        "LANDMARKS": landmark_network,
        "RAFDB": write_rafdb(folder / "rafdb", labels),
        "DISFA": write_disfa(folder / "disfa", frames=1),
        "BP4D": write_bp4d(folder / "bp4d"),
        "GFT": write_gft(folder / "gft"),
        "PARTITION": folder / "gft/partition.csv",
        "FABA": write_faba(folder / "faba"),
        "DATA": folder / "data",
        "RUNS": folder / "runs",
    }
    return {name: str(path) for name, path in paths.items()}


@pytest.mark.parametrize("table", ["Table 3", "Table 4", "Table 5", "Table 6"])
def test_the_classic_data_sets(variables, table):
    run(sections()[table], variables)


def test_faba_bench_and_its_ablations(variables, capsys):
    """Tables 7 to 9 in their order, since the later are compared with the first; Table 2 and Figure 6."""
    found = sections()
    with chat_server(lambda request: (200, {}, completion("A happy face."))) as (url, requests):
        run(found["Table 7"], {**variables, "ENDPOINT": url, "MODEL": "seer"})
    assert len(requests) == 6
    for table in ("Table 8", "Table 9", "Table 2 and Figure 6"):
        run(found[table], variables)
    shown = capsys.readouterr().out
    assert shown.count("against the other run") == 3 * (2 + 4 + 4)


def test_a_set_of_your_own(variables, astronaut, tmp_path, capsys):
    """Section 3.1: photographs of a face in two classes; a person drops nothing."""
    pytest.importorskip("dlib")
    for place in ("0/a.png", "1/b.png"):
        save(tmp_path / "affectnet" / place, astronaut[20:230, 110:320])
    answer = completion("The face is happy, and AU6 and AU12 are active.")
    with chat_server(lambda request: (200, {}, answer)) as (url, requests):
        named = {"ENDPOINT": url, "MODEL": "seer", "AFFECTNET": str(tmp_path / "affectnet")}
        run(sections()["Section 3.1"], {**variables, **named})
    assert len(requests) == 4
    assert "records" in capsys.readouterr().out
    assert (Path(variables["DATA"]) / "faba/eval/revised/eval_au_anno.json").is_file()


def test_no_table_is_forgotten():
    assert {f"Table {number}" for number in range(3, 10)} <= set(sections())

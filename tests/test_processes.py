"""`--workers` of `emola data`: the files of one process, whatever is broken, interrupted or killed."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from chat_server import chat_server, completion
from made_up_datasets import write_rafdb
from PIL import Image

from sdk.cli import main
from sdk.errors import TrainingError
from trainer.processes import in_processes

pytest.importorskip("onnxruntime")

HAPPY = "The person in this picture looks happy, with a broad smile."


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_set(folder: Path, pictures: dict[str, np.ndarray], copies: int = 1) -> Path:
    """A training file with some records of each picture, each with a landmark file of its own."""
    (folder / "images").mkdir(parents=True)
    turns = [{"from": "human", "value": "<image>\nHow?"}, {"from": "gpt", "value": "So."}]
    rows = []
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"images/{name}.png")
        rows += [
            {"image": f"images/{name}.png", "landmark": f"landmarks/{name}{copy}.npy", "conversations": turns}
            for copy in range(copies)
        ]
    (folder / "train_au_anno.json").write_text(json.dumps(rows))
    return folder / "train_au_anno.json"


def kill_at(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def open_killer():
    return kill_at


def open_adder(summand: int):
    return partial(int.__add__, summand)


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order_and_jobs_are_taken_as_needed(processes):
    numbers = itertools.count()
    results = in_processes(partial(open_adder, 5), numbers, processes)
    assert list(itertools.islice(results, 12)) == list(range(5, 17))
    results.close()
    assert next(numbers) < 12 + 4 * processes


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_killed_process_is_an_error_and_no_endless_wait():
    results = in_processes(open_killer, range(100), 2)
    with pytest.raises(TrainingError, match="a process ended before its job was done"):
        list(results)


def test_landmark_files_of_two_processes_are_those_of_one(tmp_path, astronaut, landmark_network, capsys):
    """To the byte, in batches that do not divide the set, with a broken picture among them."""
    pictures = {str(n): astronaut[60 + n : 190 + n, 170:300] for n in range(7)}
    found = {}
    for workers in ("1", "2"):
        data = write_set(tmp_path / workers, pictures)
        (tmp_path / workers / "images/3.png").write_bytes(b"\x89PNG")
        options = ("--network", str(landmark_network), "--batch-size", "2", "--workers", workers)
        assert main(["data", "landmarks", str(data), *options]) == 1
        assert "1 of 7 pictures cannot be read" in capsys.readouterr().err
        found[workers] = contents(tmp_path / workers / "landmarks")
    assert len(found["1"]) == 7  # six files and about.json
    assert found["1"] == found["2"]


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C reaches a process group")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_a_stopped_run_leaves_no_process_and_goes_on(tmp_path, astronaut, landmark_network, number):
    """Ctrl-C as from a terminal, to all; SIGKILL to the first process alone. The next run completes the files."""
    large = np.tile(astronaut, (2, 2, 1))  # reading it takes longer than the signal
    data = write_set(tmp_path, {"face": large}, copies=60)
    command = [
        "data",
        "landmarks",
        str(data),
        "--network",
        str(landmark_network),
        "--batch-size",
        "1",
        "--workers",
        "2",
    ]
    start = [sys.executable, "-m", "sdk", *command]
    process = subprocess.Popen(start, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while len(list(tmp_path.glob("landmarks/*.npy"))) < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, err = process.communicate()  # ends when every process has closed its stderr
    before = contents(tmp_path / "landmarks")
    assert len(before) < 60
    if number == signal.SIGINT:
        assert (process.returncode, err.splitlines()[-1]) == (130, "emola: error: interrupted")
        assert not (tmp_path / "landmarks/.emola-lock").exists()
    assert "Traceback" not in err
    assert main(command) == 0
    after = contents(tmp_path / "landmarks")
    assert before.items() - {(".emola-lock", b"")} <= after.items()
    about = after.pop("about.json")
    assert (len(after), len(set(after.values()))) == (60, 1)
    assert json.loads(about)["mode"] == "insightface"


def test_an_annotated_set_of_two_processes_is_that_of_one(tmp_path, astronaut):
    """Crops, records, and the photographs that give no face with their reasons."""
    pytest.importorskip("dlib")
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for index in range(3):
        Image.fromarray(astronaut[20 + index : 230, 110:320]).save(photographs / f"{index}.png")
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(photographs / "dark.png")
    (photographs / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    with chat_server(lambda request: (200, {}, completion(HAPPY))) as (url, _):
        for workers in ("1", "2"):
            options = ("--endpoint", url, "--model", "seer", "--task", "emotion", "--concurrency", "1")
            command = ("annotate", str(photographs), str(tmp_path / workers), *options, "--workers", workers)
            assert main(["data", *command]) == 0
    one, two = (contents(tmp_path / workers) for workers in ("1", "2"))
    assert one == two
    assert sum(name.endswith(".jpg") for name in one) == 3
    assert json.loads(one["train/about.json"])["left_out"]["no face was found"] == 1


def test_crops_of_two_processes_are_those_of_one(tmp_path):
    """Where pictures are copied unchanged, no process is started."""
    folder = write_rafdb(tmp_path / "basic", {f"train_0000{n}": 1 + n for n in range(4)} | {"test_0001": 4})
    for workers in ("1", "2"):
        out = tmp_path / workers
        assert main(["data", "prepare", "rafdb", str(folder), "--out", str(out), "--workers", workers]) == 0
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_a_wrong_number_of_processes_is_wrong_usage(capsys, number):
    assert main(["data", "landmarks", "x.json", "--network", "x.onnx", "--workers", number]) == 2
    assert f"argument --workers: expected a whole number of at least 1, found '{number}'" in capsys.readouterr().err

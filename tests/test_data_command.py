"""`emola data`: from a folder of a data set to a checked file with landmarks, on the command line alone."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from chat_server import chat_server, completion, question_of
from conftest import GOLDEN
from made_up_datasets import write_gft, write_rafdb
from PIL import Image

from sdk.cli import main

pytest.importorskip("torch")

TRAINING = GOLDEN / "data/FABAInstruct/train/train_anno.json"


@pytest.fixture
def data(capsys):
    """Run `emola data ...`; returns exit code, stdout and stderr."""

    def run(*arguments):
        code = main(["data", *map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


@pytest.fixture
def rafdb(tmp_path):
    return write_rafdb(tmp_path / "basic", {"train_00001": 5, "train_00002": 1, "test_0001": 4})


def test_from_a_data_set_to_a_checked_file(data, rafdb, landmark_network, tmp_path):
    """Run prepare, landmarks, check and stats in sequence."""
    out = tmp_path / "out"
    code, text, _ = data("prepare", "rafdb", rafdb, "--out", out)
    assert (code, "samples           3" in text) == (0, True)
    files = [out / "train_emotion_anno.json", out / "eval_emotion_anno.json"]
    code, text, err = data("check", files[0])
    assert (code, text.count("\n")) == (1, 2)
    assert "2 of 2 records are broken" in err
    code, text, _ = data("landmarks", *files, "--network", landmark_network)
    assert (code, text) == (0, "3 landmark files written\n")
    assert json.loads((out / "landmarks/about.json").read_text())["mode"] == "insightface"
    for file in files:
        code, text, err = data("check", file)
        assert (code, text) == (0, "")
        assert "none is broken" in err
    code, text, _ = data("stats", *files)
    assert code == 0
    assert "emotion (train 2, test 1, mean_words 1.0)" in text


def test_prepare_options(data, tmp_path):
    folder = write_gft(tmp_path / "gft")
    command = ["prepare", "gft", folder, "--out", tmp_path / "out", "--json"]
    options = ["--partition", folder / "partition.csv", "--detector", "none", "--every", 2]
    code, text, _ = data(*command, *options)
    assert code == 0
    about = json.loads(text)
    assert (about["samples"], about["every"], about["detector"]) == (3, 2, None)
    code, _, err = data(*command, "--every", 0)
    assert (code, "--every must be at least 1" in err) == (1, True)
    code, _, err = data(*command)
    assert (code, "official division is not public" in err) == (1, True)


def test_check_lists_every_problem(data, rafdb, landmark_network, tmp_path):
    """One line per problem on stdout, or one JSON document; one line of error."""
    out = tmp_path / "out"
    data("prepare", "rafdb", rafdb, "--out", out)
    file = out / "train_emotion_anno.json"
    data("landmarks", file, "--network", landmark_network)
    rows = json.loads(file.read_text())
    rows[0]["image"] = "none.jpg"
    rows[0]["id"] = rows[1]["id"]
    rows[1]["conversations"][1]["value"] = ""
    file.write_text(json.dumps(rows))
    code, text, err = data("check", file)
    assert (code, err.count("\n")) == (1, 1)
    lines = text.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"{file.name}[{index}]" for index in (0, 1, 1)]
    code, text, _ = data("check", file, "--json")
    assert [problem["record"] for problem in json.loads(text)] == [line.split(":")[0] for line in lines]
    assert code == 1


def test_check_knows_the_context_of_a_base(data, tmp_path):
    """The golden base has 17 rows per picture and room for 2048 positions."""
    file = GOLDEN / "data/FABAInstruct/train/train_anno.json"
    options = ["--base", GOLDEN / "llava-base", "--vision-tower", GOLDEN / "clip"]
    assert data("check", file, *options)[0] == 0
    rows = json.loads(file.read_text())
    rows[3]["conversations"][1]["value"] = "smile " * 2000
    long = tmp_path / "long.json"
    long.write_text(json.dumps(rows))
    code, text, _ = data("check", long, *options, "--root", GOLDEN / "data")
    assert code == 1
    assert text.startswith("long.json[3]: question and answer take")
    assert "room for 2032" in text


def test_the_task_of_an_evaluation_file(data, rafdb, tmp_path):
    """The task comes from the name of the file or from --task."""
    data("prepare", "rafdb", rafdb, "--out", tmp_path / "out")
    renamed = (tmp_path / "out/eval_emotion_anno.json").rename(tmp_path / "out/eval.json")
    code, _, err = data("check", renamed)
    assert (code, "say which task" in err) == (1, True)
    assert "say which task" not in data("check", renamed, "--task", "emotion")[2]


def test_annotate(data, astronaut, tmp_path, monkeypatch):
    """The key comes from the environment and appears only in the request."""
    pytest.importorskip("dlib")
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    Image.fromarray(astronaut[30:230, 120:320]).save(photographs / "a.png")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    answer = lambda request: (200, {}, completion("The person looks happy, with a smile."))  # noqa: E731
    with chat_server(answer) as (url, requests):
        command = ["annotate", photographs, tmp_path / "out", "--endpoint", url, "--model", "seer"]
        code, text, err = data(*command, "--task", "emotion", "--prices", 1, 2, "--split", "eval", "--json")
    about = json.loads(text)
    assert code == 0
    assert about["cost_dollars"] == pytest.approx((300 + 2 * 20) / 1e6)
    assert requests[0]["headers"]["Authorization"] == "Bearer sk-secret"
    assert question_of(requests[0])
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(b"sk-secret" in content for content in [*written, text.encode(), err.encode()])


def test_stats_draws(data, tmp_path):
    pytest.importorskip("wordcloud")
    file = GOLDEN / "data/FABAInstruct/train/train_anno.json"
    code, text, _ = data("stats", file, "--json", "--save", tmp_path / "stats.png")
    stats = json.loads(text)
    assert code == 0
    assert stats["images"] == 12
    assert "words" in stats
    with Image.open(tmp_path / "stats.png") as picture:
        assert np.asarray(picture).std() > 10


def test_usage(data, tmp_path):
    cases = [
        (["prepare", "affectnet", tmp_path, "--out", tmp_path], 2, "invalid choice"),
        (["landmarks", "file.json"], 2, "--network"),
        (["dance"], 2, "invalid choice"),
        ([], 2, "ACTION"),
        (["check", tmp_path / "none.json"], 1, "cannot be read"),
        (["stats", tmp_path / "none.json"], 1, "cannot be read"),
        (["annotate", tmp_path, tmp_path / "out", "--endpoint", "here", "--model", "m"], 1, "address of an endpoint"),
        (["landmarks", "file.json", "--network", "n", "--face-scale", "nan"], 2, "a number above 0, found 'nan'"),
        (["landmarks", "file.json", "--network", "n", "--batch-size", "0"], 2, "at least 1, found '0'"),
        (["annotate", "in", "out", "--endpoint", "e", "--model", "m", "--prices", "-1", "2"], 2, "at least 0, found"),
        (["stats", TRAINING, "--save", "x.xyz"], 1, "x.xyz: expected the name of a picture, such as stats.png"),
        (["stats", TRAINING, "--root", tmp_path / "none"], 1, "none is not a folder"),
    ]
    for arguments, expected, message in cases:
        code, out, err = data(*arguments)
        assert (code, out) == (expected, ""), arguments
        assert message in err, arguments


def test_a_missing_package_names_its_extra(data, monkeypatch, landmark_network, tmp_path):
    """`landmarks` needs cpu, and no extra of another subcommand is named."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    records = shutil.copytree(GOLDEN / "data", tmp_path / "data") / "FABAInstruct/train/train_anno.json"
    code, _, err = data("landmarks", str(records), "--network", str(landmark_network), "--replace")
    assert code == 1
    assert "install it with: pip install 'emola-edge[cpu]'" in err


def test_help_is_light():
    """`emola data --help` imports neither torch nor packages of a single subcommand."""
    code = (
        "import sys; from sdk.cli import main; main(['data', '--help']); "
        "heavy = {'torch', 'transformers', 'httpx', 'matplotlib', 'av', 'onnxruntime'} & sys.modules.keys(); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "annotate" in result.stdout

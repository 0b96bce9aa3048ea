"""Help needs no heavy package; a missing package is named with the one extra that installs it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import GOLDEN

from sdk.cli import COMMANDS, main
from sdk.commands.demo import PICTURES

HIDDEN = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
from sdk.cli import main
sys.exit(main(sys.argv[1:]))
"""
HEAVY = {
    *("torch", "transformers", "peft", "accelerate", "sentencepiece", "safetensors", "matplotlib", "wordcloud"),
    *("numba", "threadpoolctl", "onnx", "onnxscript", "onnxruntime", "google", "dlib", "av", "pandas", "httpx"),
    *("tensorrt", "cuda", "fastapi", "starlette", "uvicorn", "prometheus_client"),
}


def without(hidden, *arguments):
    """Run a command line in a Python that lacks packages."""
    command = [sys.executable, "-c", HIDDEN.format(hidden=set(hidden)), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_no_heavy_package(name):
    code, out, err = without(HEAVY, name, "--help")
    assert (code, f"usage: emola {name}" in out) == (0, True), err


def test_data_check_needs_no_heavy_package():
    file = GOLDEN / "data/FABAInstruct/train/train_anno.json"
    code, _, err = without(HEAVY, "data", "check", file)
    assert (code, re.search(r"\d+ records, none is broken", err) is not None) == (0, True), err


@pytest.mark.parametrize(
    ("missing", "extra", "command"),
    [
        ("torch", "train", ["train", "--dry-run"]),
        ("transformers", "train", ["train", "--dry-run"]),
        ("onnxruntime", "cpu", ["data", "landmarks", "FILE", "--network", "NETWORK"]),
        ("onnxruntime", "cpu", ["verify"]),
        ("dlib", "faces", ["analyze", "--detector", "dlib", PICTURES / "astronaut.jpg"]),
        ("onnx", "export", ["export", "none", "OUT", "--base", GOLDEN / "llava-base"]),
    ],
)
def test_the_missing_extra_is_named_alone(missing, extra, command, tmp_path, landmark_network):
    places = {
        "FILE": GOLDEN / "data/FABAInstruct/train/train_anno.json",
        "NETWORK": landmark_network,
        "OUT": tmp_path / "out",
    }
    code, _, err = without({missing}, *(places.get(word, word) for word in command))
    assert code == 1
    assert f"pip install 'emola-edge[{extra}]'" in err


def test_a_pack_is_found_by_name_as_in_export(tmp_path, monkeypatch, capsys):
    """`data landmarks --network buffalo_l` looks into insightface's folder and says how to fetch what is missing."""
    monkeypatch.setenv("INSIGHTFACE_HOME", str(tmp_path))
    file = str(Path(GOLDEN) / "data/FABAInstruct/train/train_anno.json")
    assert main(["data", "landmarks", file, "--network", "buffalo_l"]) == 1
    assert "holds no 2d106det.onnx; fetch the pack once with insightface" in capsys.readouterr().err
    assert main(["data", "landmarks", file, "--network", "absent.onnx"]) == 1
    assert "landmark model absent.onnx does not exist" in capsys.readouterr().err


def test_plan_explains_its_columns(capsys):
    assert main(["plan", "--target", "orin-nx-16"]) == 0
    shown = capsys.readouterr().out
    header = shown.splitlines()[1]
    for column in ("needs GB", "1st token", "2nd quest.", "tok/s", "ceiling", "share"):
        assert column in header
        assert re.search(rf"^{re.escape(column)} .*[a-z]{{4}}", shown, re.MULTILINE), column

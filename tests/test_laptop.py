"""The laptop-scale section of docs/train.md, word for word: train, evaluate, export, analyze; and the model learned."""

import json
import re
import shlex
from pathlib import Path

import pytest
from made_up_faces import write_faces

pytest.importorskip("torch")

from sdk.bundles.manifest import read_manifest
from sdk.cli import main
from sdk.faba.rege import PROTOCOLS
from trainer.training.plot import read_log

PAGE = (Path(__file__).parents[1] / "docs/train.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def laptop(tmp_path_factory) -> Path:
    """The folder that the section's commands fill, and what each printed."""
    folder = tmp_path_factory.mktemp("laptop")
    block = re.search(r"## Train on a laptop\n.*?```sh\n(.*?)```", PAGE, re.DOTALL)[1]
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line.replace(".laptop", str(folder)), comments=True)
        if words[:2] == ["python", "tests/made_up_faces.py"]:
            write_faces(Path(words[2]))
            continue
        assert words[0] == "emola"
        if words[1] == "evaluate":  # and the same model before its first step
            untrained = [*_training(block, folder), "--max-steps", "1", "--output", str(folder / "untrained")]
            assert main(untrained) == 0
            before = [word.replace("adapter", "untrained").replace("scores", "untrained-scores") for word in words]
            assert main(before[1:]) == 0
        assert main(words[1:]) == 0, line
    return folder


def _training(block: str, folder: Path) -> list[str]:
    line = next(line for line in block.replace("\\\n", " ").splitlines() if line.startswith("emola train"))
    return shlex.split(line.replace(".laptop", str(folder)))[1:]


def test_the_loss_falls(laptop):
    log = [row["loss"] for row in read_log(laptop / "adapter/log.jsonl")]
    first, last = sum(log[:5]) / 5, sum(log[-5:]) / 5
    assert last < first / 3, f"{first:.2f} -> {last:.2f}"


def test_held_out_faces_are_recognised(laptop):
    """REGE of faces that were not trained on: at least 60 points above the same model before its first step."""
    scores = {name: json.loads((laptop / name / "scores.json").read_text()) for name in ("scores", "untrained-scores")}
    trained, untrained = (scores[name]["official"]["s_rege"] for name in ("scores", "untrained-scores"))
    assert trained > untrained + 60, f"S_rege {untrained:.1f} -> {trained:.1f}"


def test_the_final_figures_are_those_of_a_model_that_learnt(laptop):
    """Every protocol reads every answer and finds at least 11 of 12 held-out faces right."""
    scores = json.loads((laptop / "scores/scores.json").read_text())
    found = {name: (scores[name]["s_re"], scores[name]["unread"]) for name in PROTOCOLS}
    assert all(accuracy > 90 and not unread for accuracy, unread in found.values()), found


def test_the_labels_of_the_training_set_are_counted(laptop, capsys):
    assert main(["data", "stats", str(laptop / "train_emotion_anno.json"), "--json"]) == 0
    emotions = json.loads(capsys.readouterr().out)["emotions"]
    assert {name: count for name, count in emotions.items() if count} == {"happiness": 16, "sadness": 16, "anger": 16}


def test_the_bundle_exists(laptop):
    assert (laptop / "bundle/manifest.json").exists()


def test_the_adapter_becomes_a_quantised_bundle_that_passed_its_gate(laptop):
    """From LoRA to int4 by GPTQ: REGE of 12 held-out faces within a point of torch; manifest and report say so."""
    golden, out = Path(__file__).parent / "data/golden", laptop / "int4"
    command = ["export", laptop / "adapter", out, "--base", golden / "llava-base", "--vision-tower", golden / "clip"]
    command += ["--landmark-model", laptop / "landmark.onnx", "--quantize", "gptq", "--group-size", "32"]
    command += ["--calibration", laptop / "train_emotion_anno.json", "-n", "24", "--target", "cpu"]
    command += ["--evaluation", laptop / "eval_emotion_anno.json"]
    assert main([*map(str, command)]) == 0
    manifest = read_manifest(out)
    assert manifest.variants[0].precision == "gptq-int4"
    assert manifest.provenance["calibration"] == "24 records of train_emotion_anno.json, seed 0"
    assert manifest.gate.shortfalls == ()
    assert manifest.gate.rege.samples == 12
    assert manifest.gate.rege.reference > 100, "the reference knows nothing that quantising could lose"
    shape = (len(manifest.layers), {len(layer.errors) for layer in manifest.layers})
    assert shape == (manifest.geometry.layers, {7}), "an error for each linear layer"
    for stricter in ((), ("--max-rege-drop", "0.9")):  # judged again, the report keeps its plots
        assert main([*map(str, command), *stricter]) == 0
        report = (laptop / "int4.report.html").read_text()
        assert "Quantisation, layer by layer" in report
        assert report.count("data:image/png") == 2

"""`emola train --report-to`: the steps of a run as the trackers' own readers see them, and refused trackers."""

import json
import struct
import subprocess
import sys

import pytest
from conftest import GOLDEN
from training import ONE_THREAD, arguments, emola_train

pytest.importorskip("torch")

from trainer.model.config import read_config
from trainer.training.plot import read_log

STEPS = ("--max-steps", "2", "--batch-size", "2")


def rows(output) -> list[dict]:
    found = read_log(output / "log.jsonl")
    assert [row["step"] for row in found] == [1, 2]
    return found


@pytest.mark.parametrize("option", [("--tensorboard",), ("--report-to", "tensorboard")], ids=["old name", "by name"])
def test_tensorboard(tmp_path, option):
    """Its event reader finds the losses and gradient norms of the log, and the shape of the model."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path / "run", *option)
    (place,) = {path.parent for path in (tmp_path / "run/runs").rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(place))
    events.Reload()
    for name, key in (("train/loss", "loss"), ("train/grad_norm", "grad_norm")):
        written = [(event.step, event.value) for event in events.Scalars(name)]
        assert written == [(row["step"], pytest.approx(row[key], rel=1e-6)) for row in rows(tmp_path / "run")]
    (text,) = events.Tensors("model_config/text_summary")
    assert json.loads(text.tensor_proto.string_val[0])["text"]["hidden_size"] == 64


def test_wandb_offline(tmp_path):
    """The file of the offline run, which `wandb sync` uploads, holds the losses of the log."""
    pytest.importorskip("wandb")
    train(tmp_path / "run", "--report-to", "wandb", WANDB_MODE="offline", WANDB_DIR=str(tmp_path), WANDB_SILENT="true")
    (file,) = tmp_path.rglob("*.wandb")
    found = [(row["train/global_step"], row["train/loss"]) for row in offline_history(file) if "train/loss" in row]
    assert found == [(row["step"], pytest.approx(row["loss"])) for row in rows(tmp_path / "run")]


def offline_history(file) -> list[dict[str, float]]:
    """What an offline run of wandb logged: wandb's own messages in a log in the format of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, part, history = file.read_bytes(), 7, b"", []  # after the mark of the file
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:  # no header fits into the rest of a block
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        part += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole message, or its last part
            items = Record.FromString(part).history.item
            history.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
            part = b""
    return history


def test_mlflow(tmp_path, monkeypatch):
    """Its client finds the losses of the log in a folder of files."""
    mlflow = pytest.importorskip("mlflow")
    place = (tmp_path / "mlruns").as_uri()
    train(tmp_path / "run", "--report-to", "mlflow", MLFLOW_TRACKING_URI=place, MLFLOW_ALLOW_FILE_STORE="true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient(place)
    (run,) = client.search_runs(["0"])
    found = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "loss")]
    assert found == [(row["step"], pytest.approx(row["loss"])) for row in rows(tmp_path / "run")]


def test_what_a_tracker_refuses_is_one_line(tmp_path):
    """MLflow refuses an address of an unknown kind: the run ends with a message, without a traceback."""
    pytest.importorskip("mlflow")
    done = run_train(tmp_path / "run", "--report-to", "mlflow", MLFLOW_TRACKING_URI="nowhere://server")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "UnsupportedModelRegistryStoreURIException" in done.stderr.splitlines()[-1]


def train(output, *options: str, **environment: str) -> None:
    done = run_train(output, *options, **environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr


def run_train(output, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own: trackers keep state in theirs."""
    command = [sys.executable, "-m", "sdk", *arguments(output, *STEPS, *options)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**ONE_THREAD, **environment})


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_tracker_that_is_missing_is_named_before_anything_is_loaded(tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr("trainer.training.loop.find_spec", lambda package: None)
    assert emola_train(tmp_path / "run", *STEPS, "--report-to", name) == 1
    assert f"pip install 'emola-edge[{name}]'" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_the_shape_of_a_model_is_json():
    """What transformers' integrations ask a config for."""
    config = read_config(GOLDEN / "llava-base", GOLDEN / "clip")
    assert json.loads(config.to_json_string()) == json.loads(json.dumps(config.to_dict()))
    assert config.to_dict()["vision"]["patch_size"] == config.vision.patch_size

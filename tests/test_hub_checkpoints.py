"""Checkpoints by hub name, and `emola push` through the real huggingface_hub; a local server is the hub."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import GOLDEN
from hub_server import COMMIT, HubServer

pytest.importorskip("torch")
pytest.importorskip("httpx")
pytest.importorskip("filelock")
pytest.importorskip("huggingface_hub")

import huggingface_hub
import torch

from sdk.bundles.files import file_sha256
from sdk.bundles.hub import EMBEDDED, hub_origin, resolve_bundle, resolve_checkpoint
from sdk.cli import main
from sdk.errors import BundleNotFoundError, DownloadError
from sdk.web import client
from trainer.checkpoint import load_emola

# huggingface_hub 2.4 passes a file to httpx in a deprecated way
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
ADAPTER = GOLDEN / "llava-lora-emola-trained"
CARD = {
    "template": "vicuna_v1",
    "image_aspect": "pad",
    "trained_with": {"tune": "all", "rank": 8, "learning_rate": 1e-4},
    "steps": 305,
    "records": 19474,
    "data_sha256": "ab" * 32,
    "last_losses": [0.71, 0.7],
    "hub": {"base": f"liuhaotian/llava-v1.5-7b@{COMMIT}"},
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty repository "owner/name" and an empty cache; uploads take the plain protocol, not hf_xet's servers."""
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    (tmp_path / "repository").mkdir()
    with HubServer(tmp_path / "repository") as server:
        for name, value in {
            "HF_ENDPOINT": server.url,
            "EMOLA_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN": "hf_x",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


def fill(hub: HubServer, folder: Path) -> None:
    shutil.copytree(folder, hub.folder, dirs_exist_ok=True)


def test_a_base_by_name_is_downloaded_once_and_used_offline(hub):
    """ "owner/name@commit" gives the model of the folder; the second time, and offline, no file is fetched."""
    fill(hub, GOLDEN / "llava-base")
    (hub.folder / "flax_model.msgpack").write_bytes(b"not needed")
    (hub.folder / ".gitattributes").write_bytes(b"not needed")
    name = f"owner/name@{COMMIT}"
    model = load_emola(ADAPTER, name, GOLDEN / "clip")
    expected = load_emola(ADAPTER, GOLDEN / "llava-base", GOLDEN / "clip").state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())
    assert set(hub.fetched.values()) == {1}
    assert not {"flax_model.msgpack", ".gitattributes"} & set(hub.fetched)
    folder = resolve_checkpoint(name)
    hub.refuse = 500
    assert resolve_checkpoint(name) == folder == resolve_checkpoint(name, offline=True)
    assert folder.name == "name"
    assert hub_origin(folder) == name
    assert hub_origin(GOLDEN / "llava-base") is None


def test_weights_that_are_there_twice_are_fetched_once(hub):
    """safetensors before .bin, as the reader prefers them."""
    for name in ("model.safetensors", "pytorch_model.bin", "adapter_model.bin", "config.json"):
        (hub.folder / name).write_bytes(b"{}")
    resolve_checkpoint("owner/name")
    assert set(hub.fetched) == {"model.safetensors", "adapter_model.bin", "config.json"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_with_another_hash_is_refused_and_removed(hub, name):
    """Both git's hash of small files and SHA-256 of large ones; the other file is kept for the next attempt."""
    for each in ("config.json", "model.safetensors"):
        (hub.folder / each).write_bytes(b"content of " + each.encode())
    hub.lying = name
    with pytest.raises(DownloadError, match=f"owner/name: {name} is not the file that the hub announces"):
        resolve_checkpoint("owner/name")
    hub.lying = None
    assert resolve_checkpoint("owner/name").is_dir()
    assert hub.fetched[name] == 2
    assert sum(hub.fetched.values()) == 3


def test_a_cut_download_goes_on(hub):
    (hub.folder / "model.safetensors").write_bytes(bytes(1 << 16))
    hub.cut = {"model.safetensors": 100}
    with pytest.raises(DownloadError, match="the download stopped"):
        resolve_checkpoint("owner/name")
    hub.cut = {}
    assert resolve_checkpoint("owner/name").is_dir()


def test_a_name_that_the_hub_does_not_have(hub):
    with pytest.raises(BundleNotFoundError, match="no folder nobody/nothing.*pass the folder of a checkpoint"):
        resolve_checkpoint("nobody/nothing")


def checkpoint(folder: Path) -> Path:
    """An adapter with the card of a run, and with what must not be uploaded."""
    shutil.copytree(ADAPTER, folder)
    (folder / "emola.json").write_text(json.dumps(CARD))
    (folder / "training.png").write_bytes(b"a plot")
    (folder / "log.jsonl").write_text("{}")
    (folder / "checkpoint-5").mkdir()
    (folder / "eval").mkdir()
    scores = {"official": {"dataset": "FABA", "task": "emotion", "samples": 403, "s_re": 64.5, "s_ge": 31.7}}
    intervals = {"s_re": [59.8, 69.2], "s_ge": [30.9, 32.5]}
    (folder / "eval/scores.json").write_text(json.dumps({**scores, "intervals": intervals}))
    name = f"torch adapter {file_sha256(folder / 'emola.json')[:12]} float32, 512 tokens"
    (folder / "eval/run.json").write_text(json.dumps({"model": name}))
    return folder


def test_a_pushed_adapter_comes_back_with_its_card(hub, tmp_path, capsys):
    """Uploaded by huggingface_hub, downloaded by name: the same weights, and a README that says what they are."""
    folder = checkpoint(tmp_path / "adapter")
    assert main(["push", str(folder), "owner/name", "--evaluation", str(folder / "eval"), "--private"]) == 0
    assert capsys.readouterr().out == f"pushed owner/name@{COMMIT}\n"
    assert hub.created["name"] == "name"
    assert hub.created.get("private") or hub.created["visibility"] == "private"  # before huggingface_hub 2, and since
    assert "Bearer hf_x" in hub.tokens
    assert not {"log.jsonl", "eval/scores.json"} & set(hub.files())
    found = resolve_checkpoint("owner/name")
    for path in (path for path in ADAPTER.iterdir() if path.name != "README.md"):
        assert (found / path.name).read_bytes() == path.read_bytes()
    card = huggingface_hub.ModelCard.load(found / "README.md")
    assert card.data.base_model == "liuhaotian/llava-v1.5-7b"
    assert card.data.library_name == "peft"
    for words in (
        "| FABA, emotion, 403 samples | s_re | 64.50 | 59.80 .. 69.20 |",
        "19474 records",
        "| rank | 8 |",
        "| steps | 305 |",
        "![Loss and learning rates over the steps](training.png)",
        "Llama 2 Community License",
        "Article 5(1)(f)",
        "## Limits",
    ):
        assert words in card.text, words


def test_a_pushed_bundle_is_opened_by_name(hub, capsys):
    assert main(["push", str(EMBEDDED), "owner/name", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"pushed": f"owner/name@{COMMIT}"}
    folder = resolve_bundle("owner/name")
    assert (folder / "manifest.json").read_bytes() == (EMBEDDED / "manifest.json").read_bytes()
    text = (hub.folder / "README.md").read_text()
    assert "Apache-2.0" in text
    assert "emola analyze photo.jpg --bundle owner/name" in text


def two_faces(path: Path) -> tuple[str, ...]:
    """Write an evaluation file of two golden faces; returns the options of `emola evaluate` for it."""
    rows = json.loads((GOLDEN / "data/FABAInstruct/train/train_anno.json").read_text())[:2]
    content = [{"image": row["image"], "landmark": row["landmark"], "label": 0, "gpt4": "Happy."} for row in rows]
    path.write_text(json.dumps(content))
    return "--data", str(path), "--root", str(GOLDEN / "data"), "--task", "emotion"


def test_a_bundle_is_evaluated_by_name(hub, tmp_path, capsys):
    """As the folder that was uploaded: the same answers; offline, nothing is asked of the hub."""
    fill(hub, EMBEDDED)
    files, found = two_faces(tmp_path / "eval.json"), {}
    for output, name in (("folder", str(EMBEDDED)), ("hub", "owner/name"), ("offline", "owner/name")):
        hub.refuse = 500 if output == "offline" else None
        run = tmp_path / output
        assert main(["evaluate", name, *files, "--output", str(run)]) == 0, capsys.readouterr().err
        found[output] = [(run / name).read_bytes() for name in ("run.json", "predictions.jsonl")]
    assert found["folder"] == found["hub"] == found["offline"]
    assert not (tmp_path / "cache/checkpoints").exists()


def test_a_repository_of_neither_kind_is_one_line(hub, tmp_path, capsys):
    (hub.folder / "notes.txt").write_text("nothing")
    files = two_faces(tmp_path / "eval.json")
    assert main(["evaluate", "owner/name", *files, "--output", str(tmp_path / "run")]) == 1
    assert "owner/name: expected a checkpoint, found no file of the kinds" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_figures_of_another_model_are_not_pushed(hub, tmp_path, capsys):
    """Nor are those that `emola evaluate` did not write."""
    folder = checkpoint(tmp_path / "adapter")
    command = ["push", str(folder), "owner/name", "--evaluation", str(folder / "eval")]
    (folder / "eval/scores.json").write_text(json.dumps({"official": {}, "intervals": {"s_re": [1, 2]}}))
    assert main(command) == 1
    assert "scores.json holds no scores of `emola evaluate`; evaluate again" in capsys.readouterr().err
    (folder / "eval/run.json").write_text(json.dumps({"model": "endpoint seer, 512 tokens"}))
    assert main(command) == 1
    assert "is an evaluation of endpoint seer, 512 tokens, not of " in capsys.readouterr().err
    assert hub.created == {}


def test_a_name_without_owner_makes_no_repository(hub, tmp_path, capsys):
    assert main(["push", str(checkpoint(tmp_path / "adapter")), "name"]) == 1
    assert "expected a name of the form owner/name, found 'name'" in capsys.readouterr().err
    assert hub.created == {}


def test_a_card_names_the_rows_of_an_ablation(tmp_path, capsys):
    folder = checkpoint(tmp_path / "adapter")
    (folder / "config.json").write_text(json.dumps({"emola_tokens": "visual", "emola_prior_position": "after"}))
    assert main(["push", str(folder), "owner/name", "--dry-run"]) == 0
    card = capsys.readouterr().out
    assert "| tokens | visual |" in card
    assert "| prior position |" not in card


def test_a_refused_upload_is_one_line(hub, tmp_path, capsys):
    hub.refuse = 403
    assert main(["push", str(checkpoint(tmp_path / "adapter")), "owner/name"]) == 1
    assert "owner/name: the hub refuses the upload (" in capsys.readouterr().err


def test_a_hub_that_is_not_there_is_one_line(hub, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(checkpoint(tmp_path / "adapter")), "owner/name"]) == 1
    assert "owner/name: the upload stopped (" in capsys.readouterr().err


def test_a_folder_that_is_no_model_is_not_pushed(hub, tmp_path, capsys):
    assert main(["push", str(tmp_path), "owner/name"]) == 1
    assert "expected a bundle (manifest.json) or a checkpoint of `emola train` (emola.json)" in capsys.readouterr().err
    assert hub.created == {}

"""The recipe of a run: the ablations, the plan, and refused options."""

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import GOLDEN
from training import RECORDS, emola_train, losses

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file

from sdk.cli import main
from sdk.errors import TrainingError
from trainer.checkpoint import load_emola
from trainer.corpus.records import read_records
from trainer.model import EmoLA
from trainer.model.config import Conventions, read_config
from trainer.training.recipe import Recipe, prepare_model
from trainer.training.train import Sources, train

CONFIGURATIONS = Path(__file__).parents[1] / "trainer/accelerate"


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        (("--tune", "landmark"), {"landmark"}),
        (("--tune", "lora"), {"lora", "visual"}),
        (("--tokens", "visual"), {"lora", "visual"}),
        (("--tokens", "prior"), {"lora", "landmark"}),
    ],
    ids=["landmark only", "without landmark", "visual tokens", "prior token"],
)
def test_an_ablation_trains_what_it_says(tmp_path, options, trained):
    """Tables 8 and 9: the rest of the adapter is unchanged; the folder is a checkpoint that records its tokens."""
    output = tmp_path / "run"
    assert emola_train(output, "--batch-size", "4", "--max-steps", "3", "--seed", "3", *options) == 0
    model = load_emola(output, GOLDEN / "llava-base", GOLDEN / "clip")
    assert model.config.tokens == (options[1] if options[0] == "--tokens" else "both")
    factors = [tensor for name, tensor in load_file(output / "adapter_model.safetensors").items() if "lora_B" in name]
    parts = {"lora"} if any(tensor.any() for tensor in factors) else set()
    started = _start(output)
    for name, tensor in model.state_dict().items():
        if "projector" in name and not torch.equal(tensor, started[name]):
            parts.add("landmark" if "landmark" in name else "visual")
    assert parts == trained


def _start(output: Path) -> dict[str, torch.Tensor]:
    """Both projectors at the start of a run with seed 3."""
    from trainer.checkpoint import Checkpoint

    frozen = Checkpoint(None, GOLDEN / "llava-base", GOLDEN / "clip", new_projector_seed=3).frozen
    return {name: tensor for name, tensor in frozen.items() if "projector" in name}


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--precision", "bf16"), 2),
        (("--batch-size", "0"), 1),
        (("--epochs", "0"), 1),
        (("--dropout", "1"), 1),
        (("--warmup-ratio", "3"), 1),
        (("--workers", "-1"), 1),
        (("--alpha", "0"), 1),
        (("--epochs", "inf"), 1),
        (("--learning-rate", "nan"), 1),
        (("--learning-rate", "-1"), 1),
        (("--weight-decay", "inf"), 1),
        (("--max-grad-norm", "nan"), 1),
        (("--seed", "-1"), 1),
        (("--seed", str(1 << 32)), 1),
        (("--load-4bit", "--tune", "everything"), 1),
        (("--tune", "everything", "--adapter", str(GOLDEN / "llava-lora-emola-init")), 1),
        (("--load-4bit", "--adapter", str(GOLDEN / "llava-lora-emola-init")), 1),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, capsys, options, code):
    """A precision that is none would train in float32, a batch of nothing never end, a ratio of 3 be three steps, and
    of a decoder that is trained as a whole below an adapter nothing would be written."""
    assert emola_train(tmp_path / "run", *options) == code
    assert options[0] in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_landmarks_that_are_no_coordinates_align_nothing(tmp_path, capsys):
    """The released landmark files on a base that turns faces upright by their landmarks, such as emola-nano's."""
    base = shutil.copytree(GOLDEN / "llava-base", tmp_path / "base")
    recorded = Conventions(image_aspect="align", landmark_mode="insightface", anchors=((0, -0.4, 0), (1, 0.4, 0)))
    (base / "emola.json").write_text(json.dumps(dataclasses.asdict(recorded)))
    assert emola_train(tmp_path / "run", base=base) == 1
    assert "landmark files of mode 'emola' hold no coordinates" in capsys.readouterr().err


def test_nothing_to_train_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="--tune landmark with --tokens visual trains nothing"):
        train(
            Sources(
                read_records(RECORDS), Conventions(), str(GOLDEN / "llava-base"), str(GOLDEN / "clip"), tokens="visual"
            ),
            Recipe(tune="landmark"),
            tmp_path / "run",
        )
    config = dataclasses.replace(read_config(GOLDEN / "llava-base", GOLDEN / "clip"), tokens="prior")
    with pytest.raises(TrainingError, match="--tokens prior there are none"):
        prepare_model(EmoLA(config), Recipe(keep_visual=0.5))
    with pytest.raises(TrainingError, match="--prior-only chooses between"):
        prepare_model(EmoLA(config), Recipe(prior_only=0.5))


def test_the_plan_of_llava_7b(capsys):
    """`emola train --dry-run` alone: 319,815,680 + 20,979,712 + 17,653,760 parameters; no weight is read."""
    assert main(["train", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["trainable"] == {"lora": 319_815_680, "visual projector": 20_979_712, "landmark projector": 17_653_760}
    assert main(["train", "--dry-run", "--prior", "geometry", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trainable"]["landmark projector"] == 16_932_864  # reads 36 numbers
    assert main(["train", "--dry-run"]) == 0
    table = capsys.readouterr().out
    assert "319,815,680" in table
    assert "4.84 %" in table
    assert re.search(r"^steps +unknown$", table, re.MULTILINE), "without records nobody knows how many"


def test_a_missing_4bit_library_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    assert emola_train(tmp_path / "run", "--load-4bit") == 1
    assert "pip install 'emola-edge[train4bit]'" in capsys.readouterr().err


def test_shipped_configurations_are_accelerates():
    """accelerate reads both files and finds full sharding in them."""
    from accelerate.commands.config.config_args import load_config_from_file

    fsdp, zero = (load_config_from_file(str(CONFIGURATIONS / name)) for name in ("fsdp.yaml", "zero3.yaml"))
    assert fsdp.distributed_type.value == "FSDP"
    assert fsdp.fsdp_config["fsdp_reshard_after_forward"] is True
    assert zero.distributed_type.value == "DEEPSPEED"
    assert zero.deepspeed_config["zero_stage"] == 3


def test_4_bit_weights_learn_the_same_on_a_processor(tmp_path):
    """bitsandbytes itself rounds the frozen decoder: losses within 5 % of the unrounded run, but not equal to them."""
    pytest.importorskip("bitsandbytes")
    for name, options in (("plain", ()), ("rounded", ("--load-4bit",))):
        assert emola_train(tmp_path / name, "--batch-size", "2", "--max-steps", "4", "--dropout", "0", *options) == 0
    plain, rounded = losses(tmp_path / "plain"), losses(tmp_path / "rounded")
    assert rounded == pytest.approx(plain, rel=0.05)
    assert rounded != pytest.approx(plain, rel=1e-5)
    model = load_emola(tmp_path / "rounded", GOLDEN / "llava-base", GOLDEN / "clip")
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())

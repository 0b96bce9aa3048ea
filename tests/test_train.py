"""`emola train` repeats the authors' training, in one process or several, resumes runs and refuses bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN, golden_json
from training import ONE_THREAD, RECORDS, arguments, emola_train, kill_after, launch, losses, write_records

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file

import trainer.training.train
from trainer.checkpoint import load_emola
from trainer.corpus.records import read_records
from trainer.model.config import Conventions
from trainer.model.save import official_name
from trainer.training.plot import read_log
from trainer.training.recipe import Recipe
from trainer.training.train import Sources, train

OFFICIAL_FILES = ("adapter_model.bin", "non_lora_trainables.bin", "landmark_feature_projector.bin")
CONFIGURATIONS = Path(__file__).parents[1] / "trainer/accelerate"


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Use one thread, as the processes that the tests start; see `ONE_THREAD`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def golden_run(tmp_path_factory) -> Path:
    """The authors' ten steps, repeated by `trainer.training.train.train`, which `emola train` calls."""
    golden = golden_json("golden_training.json")
    recipe = Recipe(
        learning_rate=golden["learning_rate"],
        projector_learning_rate=golden["mm_projector_lr"],
        warmup_ratio=golden["warmup_ratio"],
        max_steps=golden["max_steps"],
        batch_size=golden["batch_size"],
        max_grad_norm=golden["max_grad_norm"],
        precision="float32",
        workers=0,
    )
    sources = Sources(
        read_records(RECORDS),
        Conventions(template="vicuna_v1", image_aspect="pad"),
        str(GOLDEN / "llava-base"),
        str(GOLDEN / "clip"),
        str(GOLDEN / "llava-lora-emola-init"),
    )
    output = tmp_path_factory.mktemp("golden") / "run"
    order = [index for batch in golden["order"] for index in batch]
    train(sources, recipe, output, order=order, official_layout=True)
    return output


def test_ten_steps_are_the_authors(golden_run):
    """Losses within 1e-4, learning rates of the four groups within 1e-9, gradient norms within 1e-3."""
    golden, log = golden_json("golden_training.json"), read_log(golden_run / "log.jsonl")
    np.testing.assert_allclose([row["loss"] for row in log], golden["losses"], rtol=0, atol=1e-4)
    np.testing.assert_allclose([row["learning_rates"] for row in log], golden["lrs"], rtol=0, atol=1e-9)
    np.testing.assert_allclose([row["grad_norm"] for row in log], golden["grad_norms"], rtol=0, atol=1e-3)


def test_the_same_parameters_are_trained(golden_run):
    (checkpoint,) = golden_run.glob("checkpoint-10")
    trained = {official_name(name) for name in load_file(checkpoint / "model.safetensors")}
    assert trained == set(golden_json("golden_training.json")["trainable_parameter_names"])


@pytest.mark.parametrize("name", OFFICIAL_FILES)
def test_the_trained_adapter_is_the_authors_key_for_key(golden_run, name):
    """`--official-layout`: the same keys, shapes and types in each file; values within 1e-5."""
    ours, theirs = (torch.load(folder / name) for folder in (golden_run, GOLDEN / "llava-lora-emola-trained"))
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in ours.items()} == {
        key: (tensor.shape, tensor.dtype) for key, tensor in theirs.items()
    }
    worst = max(float((ours[key] - theirs[key]).abs().max()) for key in theirs)
    assert worst < 1e-5, f"{name}: {worst:.1e}"


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> Path:
    """Six steps of two records, with dropout and shuffling."""
    output = tmp_path_factory.mktemp("one") / "run"
    assert emola_train(output, "--batch-size", "2", "--save-steps", "2") == 0
    return output


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft 0.21 calls transformers 5.23 by an old name
def test_peft_reads_the_adapter(one_process):
    """peft itself loads our folder onto the plain decoder: the logits are those of our own reader, within 1e-5."""
    from peft import PeftModel

    base, tower = GOLDEN / "llava-base", GOLDEN / "clip"
    merged = load_emola(one_process, base, tower)
    plain = load_emola(GOLDEN / "llava-lora-emola-init", base, tower, lora="live").language_model.unload()
    wrapped = PeftModel.from_pretrained(plain, one_process).eval()
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        difference = (wrapped(input_ids=ids).logits - merged.language_model(input_ids=ids).logits).abs().max()
    assert difference < 1e-5


def test_the_folder_says_how_it_was_made(one_process):
    """The folder holds the plot and a card with recipe, data hash, conventions and versions."""
    card = json.loads((one_process / "emola.json").read_text())
    assert (card["template"], card["image_aspect"], card["landmark_mode"]) == ("vicuna_v1", "pad", "emola")
    assert card["trained_with"]["rank"] == 8
    assert card["records"] == 12
    assert len(card["data_sha256"]) == 64
    assert set(card["versions"]) == {"torch", "transformers", "peft", "accelerate"}
    assert card["last_losses"][-1] == pytest.approx(losses(one_process)[-1], abs=1e-4)
    assert (one_process / "training.png").stat().st_size > 10_000


def accelerate(configuration: str) -> list[str]:
    """The start of a command line that runs a script in two processes."""
    file = str(CONFIGURATIONS / configuration)
    return [
        *("-m", "accelerate.commands.launch", "--config_file", file),
        *("--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"),
    ]


@pytest.mark.parametrize(
    ("launcher", "sharded", "tolerance"),
    [
        (["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "sdk"], "", 1e-5),
        ([*accelerate("fsdp.yaml"), str(Path(__file__).parent / "fsdp_on_cpu.py")], "pytorch_model_fsdp", 1e-4),
        ([*accelerate("zero3.yaml"), str(Path(__file__).parent / "slow_main_process.py")], "global_step", 1e-4),
    ],
    ids=["ddp", "fsdp", "zero3"],
)
def test_two_processes_are_one(tmp_path, launcher, sharded, tolerance, monkeypatch):
    """Two processes with half the batch each give the losses and the adapter of one process, within the tolerance."""
    if sharded == "global_step":
        pytest.importorskip("deepspeed")
        monkeypatch.setitem(ONE_THREAD, "DS_ACCELERATOR", "cpu")
    options = ("--max-steps", "4", "--dropout", "0")
    assert emola_train(tmp_path / "one", "--batch-size", "2", *options) == 0
    launch(launcher, tmp_path / "two", "--batch-size", "1", "--save-steps", "2", *options)
    shards = [path.name for path in (tmp_path / "two/checkpoint-4").glob("*") if path.is_dir() or "fsdp" in path.name]
    assert any(name.startswith(sharded) for name in shards) if sharded else not shards, shards
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=0, atol=tolerance)
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < tolerance


def test_accumulated_batches_are_one_batch(tmp_path):
    """Two passes of one record equal one pass of two within 1e-5: the loss is a mean over tokens, not over records."""
    options = ("--max-steps", "3", "--dropout", "0")
    assert emola_train(tmp_path / "one", "--batch-size", "2", *options) == 0
    assert emola_train(tmp_path / "two", "--batch-size", "1", "--accumulation", "2", *options) == 0
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tune", ["lora", "everything"])
def test_bfloat16_on_a_processor_learns_the_same(tmp_path, monkeypatch, tune):
    """With attention as matrix products (`attend_plainly`), losses are within 1 % of those in float32."""
    load, ways = trainer.training.train._load, []

    def spy(*given):
        model = load(*given)
        ways.extend(part.config._attn_implementation for part in (model.language_model, model.vision_tower))
        return model

    monkeypatch.setattr(trainer.training.train, "_load", spy)
    for precision in ("float32", "bfloat16"):
        options = ("--precision", precision, "--tune", tune, "--max-steps", "3", "--batch-size", "4")
        assert emola_train(tmp_path / precision, *options) == 0
    assert losses(tmp_path / "bfloat16") == pytest.approx(losses(tmp_path / "float32"), rel=0.01)
    assert ways == ["sdpa", "sdpa", "eager", "eager"]


def test_killed_three_times_and_resumed(tmp_path):
    """SIGKILL at three random steps, with dropout, shuffling and pruning, weights of a straight run to the bit."""
    options = ("--epochs", "4", "--batch-size", "2", "--save-steps", "2", "--keep-visual", "0.5")
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    assert emola_train(straight, *options) == 0
    for step in np.sort(np.random.default_rng(0).choice(np.arange(3, 22), 3, replace=False)):
        kill_after(int(step), killed, *options)
        assert not (killed / "adapter_model.safetensors").exists()
    assert emola_train(killed, *options) == 0
    for name in ("adapter_model.safetensors", "non_lora_trainables.safetensors"):
        first, second = load_file(killed / name), load_file(straight / name)
        assert all(torch.equal(first[key], second[key]) for key in first), name
    assert losses(killed) == losses(straight)


def test_a_full_disk_costs_nothing_that_was_saved(tmp_path, capsys):
    """If the checkpoint does not fit: one line, nothing half written; with enough space the run then finishes."""
    options = ("--batch-size", "2", "--max-steps", "6", "--save-steps", "4")
    limited = (
        "import resource, sys; from sdk.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", limited, *arguments(tmp_path / "run", *options)]
    failed = subprocess.run(command, capture_output=True, text=True, check=False, env=ONE_THREAD)
    assert failed.returncode == 1
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("emola: error: ")
    assert "complete checkpoints are kept, start again to go on" in last
    assert "Traceback" not in failed.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["log.jsonl", "run.json"]
    assert emola_train(tmp_path / "run", *options) == 0
    assert emola_train(tmp_path / "straight", *options) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "straight")


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, capsys):
    """A rate of 1e30: the step is named, earlier checkpoints stay, no adapter is written."""
    options = ("--batch-size", "2", "--save-steps", "1", "--learning-rate", "1e30", "--warmup-ratio", "0.5")
    assert emola_train(tmp_path / "run", *options) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "loss nan, gradient norm nan; try a smaller learning rate" in message
    assert (tmp_path / "run/checkpoint-1/COMPLETE").exists()
    assert not (tmp_path / "run/adapter_model.safetensors").exists()


def _truncated_picture(rows, folder):
    picture = Path(rows[5]["image"]).read_bytes()
    (folder / "broken.png").write_bytes(picture[: len(picture) // 2])
    rows[5]["image"] = str(folder / "broken.png")


def _wrong_landmarks(rows, folder):
    np.save(folder / "short.npy", np.zeros(100, np.float32))
    rows[5]["landmark"] = str(folder / "short.npy")


def _no_picture(rows, folder):
    rows[5]["image"] = str(folder / "absent.png")


def _no_answer(rows, folder):
    rows[5]["conversations"][1]["value"] = " "


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_truncated_picture, "broken.png"),
        (_wrong_landmarks, "expected 212 finite numbers, found float32 of shape (100,)"),
        (_no_picture, "absent.png does not exist"),
        (_no_answer, "records.json[5]: the answer is empty"),
    ],
)
def test_a_corrupted_record_is_one_clear_line(tmp_path, capsys, spoil, message, workers):
    """This holds for defects found before the run and for those found by decoding, in this or another process."""
    data = tmp_path / "records.json"
    rows = write_records(data)
    spoil(rows, tmp_path)
    data.write_text(json.dumps(rows))
    assert emola_train(tmp_path / "run", "--root", "/", "--batch-size", "2", "--workers", workers, data=data) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "emola: error" in line]
    assert message in line
    assert "Traceback" not in line


def test_a_base_without_a_visual_projector_is_refused(tmp_path, capsys):
    base = tmp_path / "vicuna"
    shutil.copytree(GOLDEN / "llava-base", base)
    for shard in base.glob("*.bin"):
        state = torch.load(shard)
        torch.save({name: tensor for name, tensor in state.items() if "mm_projector" not in name}, shard)
    assert emola_train(tmp_path / "run", base=base) == 1
    assert "it must be LLaVA-1.5, not the language model alone" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--batch-size", "2", "--seed", "2"), "holds another training run: recipe.seed (found 1, expected 2) differ"),
        (
            ("--batch-size", "2", "--template", "llava_v1"),
            "holds another training run: conventions.template (found 'vicuna_v1', expected 'llava_v1') differ",
        ),
    ],
)
def test_a_folder_of_another_run_is_left_alone(one_process, capsys, changed, message):
    before = {path: path.stat().st_mtime_ns for path in one_process.rglob("*")}
    assert emola_train(one_process, *changed) == 1
    assert message in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in one_process.rglob("*")} == before


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert emola_train(tmp_path) == 1
    assert "is not empty and holds no training run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_going_on_from_an_adapter_keeps_its_lora(tmp_path):
    """Only the landmark projector is trained; LoRA is written unchanged."""
    start = GOLDEN / "llava-lora-emola-trained"
    options = ("--adapter", str(start), "--tune", "landmark", "--max-steps", "2", "--batch-size", "2")
    assert emola_train(tmp_path / "run", *options) == 0
    before, after = torch.load(start / "adapter_model.bin"), load_file(tmp_path / "run/adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_going_on_from_an_adapter_keeps_its_conventions(tmp_path):
    """Template and image aspect are those of the adapter, unless they are given."""
    once = ("--max-steps", "1", "--batch-size", "2", "--tune", "all")
    assert emola_train(tmp_path / "a", *once, "--template", "llava_v1", "--image-aspect", "crop") == 0
    assert emola_train(tmp_path / "b", *once, "--adapter", str(tmp_path / "a"), "--image-aspect", "pad") == 0
    card = json.loads((tmp_path / "b/emola.json").read_text())
    assert (card["template"], card["image_aspect"]) == ("llava_v1", "pad")


def test_every_parameter_of_a_small_model(tmp_path):
    """`--tune everything`: a complete checkpoint that needs no base; every part has changed."""
    from export.merge import merge
    from trainer.checkpoint import Checkpoint

    base = tmp_path / "base"
    base.mkdir()
    merge(Checkpoint(GOLDEN / "llava-lora-emola-init", GOLDEN / "llava-base", GOLDEN / "clip"), base)
    options = ("--tune", "everything", "--batch-size", "4", "--max-steps", "3")
    assert emola_train(tmp_path / "run", *options, base=base) == 0
    before, after = load_emola(None, base).state_dict(), load_emola(None, tmp_path / "run").state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"vision_tower", "mm_projector", "landmark_feature_projector", "language_model"}


def test_the_plan_of_a_run_is_what_it_does(one_process, capsys):
    """Steps and trained parameters of the dry run are those of the run."""
    from sdk.cli import main

    assert main([*arguments(one_process, "--batch-size", "2"), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["steps"] == len(losses(one_process)) == 6
    written = load_file(one_process / "checkpoint-6/model.safetensors")
    assert sum(plan["trainable"].values()) == sum(tensor.numel() for tensor in written.values())

"""The training run: what it starts from, the folder it lives in, and the checkpoint it leaves; resumes exactly."""

import dataclasses
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import parse_flag_from_env
from safetensors import SafetensorError
from torch import Tensor
from transformers import TrainerState

from sdk.errors import SdkError, TrainingError
from sdk.files import write_json
from trainer.checkpoint import Checkpoint
from trainer.corpus.records import Record
from trainer.corpus.tensors import Encoding, FixedOrder, RecordDataset, RecordOrder
from trainer.model import EmoLA
from trainer.model.config import CONVENTIONS, Conventions, Tokens
from trainer.model.lora import LORA_TARGETS, load_in_4bit
from trainer.model.processor import attend_plainly
from trainer.model.save import write_adapter, write_complete
from trainer.model.weights import canonical_name
from trainer.tokenization import load_tokenizer
from trainer.training.loop import COMPLETE, Arguments, RecordTrainer, StepLog, training_arguments
from trainer.training.plot import plot_training, read_log
from trainer.training.recipe import Recipe, prepare_model, trainable_parts

LOG, RUN = "log.jsonl", "run.json"


@dataclasses.dataclass(frozen=True)
class Sources:
    """What a run starts from.

    Attributes:
        records: the training set.
        conventions: recorded with the checkpoint.
        base, vision_tower: as in `trainer.checkpoint.load_emola`.
        adapter: an adapter to go on from, or None for a new one.
        tokens: rows that the decoder sees, for the ablation of Table 8; None keeps what the base says.
    """

    records: Sequence[Record]
    conventions: Conventions
    base: str
    vision_tower: str | None = None
    adapter: str | None = None
    tokens: Tokens | None = None


def train(
    sources: Sources,
    recipe: Recipe,
    output: Path,
    *,
    official_layout: bool = False,
    order: Sequence[int] | None = None,
    report: Callable[[str], None] = lambda line: None,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train and write a checkpoint to `output`; a run that was stopped there goes on.

    Args:
        official_layout: write the adapter in the authors' files.
        order: indices of the records in the order of their use, instead of a seeded shuffle.
        report: told one line per stage.
        tensorboard: also log for TensorBoard.

    Returns:
        The card of the run, as written to `emola.json`.

    Raises:
        TrainingError: the folder holds another run, the loss is not a number, or the disk is full; checkpoints stay.
    """
    arguments = training_arguments(recipe, output, tensorboard)
    checkpoint = Checkpoint(sources.adapter, sources.base, sources.vision_tower, new_projector_seed=recipe.seed)
    if sources.tokens:
        checkpoint.config = dataclasses.replace(checkpoint.config, tokens=sources.tokens)
    recipe = _recipe_of(checkpoint, recipe)
    with arguments.main_process_first():
        resume = _open_folder(output, _run(sources, recipe, order, arguments.world_size))
    encoding = Encoding(checkpoint.config, sources.conventions, checkpoint.statistics, load_tokenizer(checkpoint.base))
    dataset, log = RecordDataset(sources.records, encoding, ranked=recipe.leaves_rows_out), StepLog(output / LOG)
    torch.manual_seed(recipe.seed)  # LoRA starts at random
    model = _load(checkpoint, recipe, arguments)
    given = _order(dataset, recipe, arguments.world_size, order)
    trainer = RecordTrainer(model, arguments, dataset, given, recipe, log)
    if trainer.is_world_process_zero():
        report(f"{len(dataset)} records; trained parameters: {trainable_parts(model)}")
        report(f"going on from {resume.name}" if resume else "starting")
    with _clear_errors(output), closing(log):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        trained = trainer.trained_state()
        card = _card(sources, recipe, trainer.state)
        if trainer.is_world_process_zero():
            _write(output, trained, checkpoint, sources.conventions, recipe, card, official_layout)
    return card


@contextmanager
def _clear_errors(output: Path) -> Iterator[None]:
    """One line for what can stop a run; what was being written goes, complete checkpoints stay."""
    try:
        yield
    except TrainingError:
        raise
    except SdkError as error:  # that of a process which loads pictures ends with the line that matters
        reason = str(error).splitlines()[-1].removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")
    except (OSError, SafetensorError) as error:
        reason = str(error)
    except RuntimeError as error:
        if "inline_container" not in str(error):
            raise
        reason = "a checkpoint cannot be written"  # all that torch.save says of a full disk
    else:
        return
    _discard_unfinished(output)
    raise TrainingError(f"{output}: {reason}; complete checkpoints are kept, start again to go on from the last")


def _load(checkpoint: Checkpoint, recipe: Recipe, arguments: Arguments) -> EmoLA:
    """The model with its trained parameters in float32 and, in a bfloat16 run, the frozen ones in bfloat16."""
    sharded = parse_flag_from_env("ACCELERATE_USE_FSDP")  # which wants one type within a layer
    halved = arguments.bf16 and not sharded and recipe.tune != "everything"
    lora: Literal["live", "merged"] = "live" if checkpoint.lora else "merged"
    model = checkpoint.load(dtype=torch.bfloat16 if halved else torch.float32, lora=lora)
    if arguments.bf16 and arguments.use_cpu:
        attend_plainly(model.language_model, model.vision_tower)
    if recipe.load_4bit:
        load_in_4bit(model.language_model)
    prepare_model(model, recipe)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if recipe.checkpointing:
        checkpoint_layers(model)
    model.train()
    return model


def checkpoint_layers(model: EmoLA) -> None:
    """Keep only the input of each decoder layer and compute the rest again in the backward pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers 5.23 has a new name for it, 5.20 does not
        model.language_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _recipe_of(checkpoint: Checkpoint, recipe: Recipe) -> Recipe:
    """The recipe, with the LoRA shape of the adapter that a run goes on from."""
    if checkpoint.lora is None:
        return recipe
    if recipe.tune == "everything" or recipe.load_4bit:
        option = "--load-4bit" if recipe.load_4bit else "--tune everything"
        raise TrainingError(f"{option} starts from a base without LoRA, not from an adapter ({checkpoint.adapter})")
    given = checkpoint.lora.config
    if given.get("use_rslora") or set(given["target_modules"]) != set(LORA_TARGETS):
        raise TrainingError(
            f"{checkpoint.adapter}: only plain LoRA on {', '.join(LORA_TARGETS)} can be trained further"
        )
    return dataclasses.replace(recipe, rank=given["r"], alpha=given["lora_alpha"], dropout=given["lora_dropout"])


def _order(dataset: RecordDataset, recipe: Recipe, processes: int, order: Sequence[int] | None) -> RecordOrder:
    if order is not None:
        return FixedOrder(order)
    lengths = dataset.lengths() if recipe.group_by_length else None
    return RecordOrder(len(dataset), recipe.batch_size, recipe.accumulation * processes, recipe.seed, lengths)


def _run(sources: Sources, recipe: Recipe, order: Sequence[int] | None, processes: int) -> dict[str, Any]:
    """What makes two runs the same run, as it is read back from JSON."""
    free = ("workers", "save_steps")  # may be changed in between
    run = {
        "recipe": {key: value for key, value in dataclasses.asdict(recipe).items() if key not in free},
        "conventions": dataclasses.asdict(sources.conventions),
        "base": Path(sources.base).name,
        "adapter": Path(sources.adapter).name if sources.adapter else None,
        "tokens": sources.tokens,
        "data": _data_digest(sources.records),
        "order": order,
        "processes": processes,
    }
    same: dict[str, Any] = json.loads(json.dumps(run))
    return same


def _data_digest(records: Sequence[Record]) -> str:
    content = [(record.image, record.landmark, record.question, record.answer) for record in records]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _open_folder(output: Path, run: Mapping[str, Any]) -> Path | None:
    """The checkpoint to go on from, or None for a new run.

    Raises:
        TrainingError: the folder belongs to something else.
    """
    known = output / RUN
    if known.is_file():
        found = json.loads(known.read_text(encoding="utf-8"))
        changed = [key for key in run if found.get(key) != run[key]]
        if changed:
            raise TrainingError(f"{output} holds another run: {', '.join(changed)} differ; choose another folder")
        _discard_unfinished(output)
        return max(output.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]), default=None)
    if output.exists() and any(output.iterdir()):
        raise TrainingError(f"{output} is not empty and holds no training run; choose another folder")
    write_json(known, run)
    return None


def _discard_unfinished(output: Path) -> None:
    for folder in output.glob("checkpoint-*"):
        if not (folder / COMPLETE).is_file():
            shutil.rmtree(folder, ignore_errors=True)  # other processes do the same
    shutil.rmtree(output / "final.partial", ignore_errors=True)


def _card(sources: Sources, recipe: Recipe, state: TrainerState) -> dict[str, Any]:
    """What a reader of the checkpoint should know of its run."""
    losses = [row["loss"] for row in state.log_history if "loss" in row]
    return {
        "trained_with": dataclasses.asdict(recipe),
        "steps": state.global_step,
        "records": len(sources.records),
        "data_sha256": _data_digest(sources.records),
        "base": Path(sources.base).name,
        "adapter": Path(sources.adapter).name if sources.adapter else None,
        "last_losses": [round(loss, 4) for loss in losses[-5:]],
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")},
    }


def _write(
    output: Path,
    trained: Mapping[str, Tensor],
    checkpoint: Checkpoint,
    conventions: Conventions,
    recipe: Recipe,
    card: Mapping[str, Any],
    official_layout: bool,
) -> None:
    """The finished checkpoint and its plot, each file under its name only when all of them are written."""
    partial = output / "final.partial"
    partial.mkdir()
    if recipe.tune == "everything":
        named = {canonical_name(name): tensor for name, tensor in trained.items()}
        # 16 bit, as LLaVA's own files are
        weights = ((name, named.get(name, tensor).half()) for name, tensor in checkpoint.frozen.items())
        tokenizer = checkpoint.base / "tokenizer.model"
        write_complete(partial, weights, checkpoint.config, conventions, checkpoint.statistics, tokenizer, card)
    else:
        kept = checkpoint.adapter_weights()
        write_adapter(
            partial,
            {**kept, **trained},
            checkpoint.config,
            conventions,
            recipe.lora_config(),
            card,
            official_layout=official_layout,
        )
    plot_training(read_log(output / LOG), partial / "training.png")
    for path in sorted(partial.iterdir(), key=lambda path: path.name == CONVENTIONS):
        path.replace(output / path.name)
    partial.rmdir()

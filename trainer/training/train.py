"""The training run: its sources, its output folder and the final checkpoint; a stopped run resumes exactly."""

import dataclasses
import hashlib
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from accelerate.utils import parse_flag_from_env
from safetensors import SafetensorError
from torch import Tensor
from transformers import TrainerState

from sdk.bundles.hub import hub_origin
from sdk.errors import SdkError, TrainingError
from sdk.files import claim_folder, temporary
from sdk.locks import writing_into
from trainer.checkpoint import Checkpoint
from trainer.corpus.records import Record
from trainer.corpus.tensors import Encoding, FixedOrder, RecordDataset, RecordOrder
from trainer.model import EmoLA
from trainer.model.ablation import PriorPosition, Tokens
from trainer.model.config import CONVENTIONS, Conventions
from trainer.model.lora import LORA_TARGETS, load_in_4bit
from trainer.model.priors import LANDMARKS, find_prior
from trainer.model.processor import attend_plainly
from trainer.model.save import write_adapter, write_complete
from trainer.model.weights import canonical_name
from trainer.tokenization import load_tokenizer
from trainer.training.compiled import check_compiler, compile_layers
from trainer.training.loop import (
    COMPLETE,
    Arguments,
    RecordTrainer,
    StepLog,
    Tracker,
    check_trackers,
    training_arguments,
)
from trainer.training.plot import plot_training, read_log
from trainer.training.recipe import Recipe, prepare_model, trainable_parts

LOG, RUN = "log.jsonl", "run.json"
MEASURED = 1000  # records whose landmarks give the statistics of a new prior
FINAL = "final"  # folder in which the final checkpoint is written before its files move up


@dataclasses.dataclass(frozen=True)
class Sources:
    """The files and records that a run starts from.

    Attributes:
        records: the training set.
        conventions: recorded with the checkpoint.
        base, vision_tower: as in `trainer.checkpoint.load_emola`.
        adapter: an adapter to train further, or None for a new one.
        tokens: rows that the decoder sees, for the ablation of Table 8; None keeps the setting of the base.
        prior_position: as in `EmolaConfig`; None keeps the setting of the base.
        prior: name of another prior, with a new projector; None keeps that of the base.
    """

    records: Sequence[Record]
    conventions: Conventions
    base: str
    vision_tower: str | None = None
    adapter: str | None = None
    tokens: Tokens | None = None
    prior_position: PriorPosition | None = None
    prior: str | None = None


def train(
    sources: Sources,
    recipe: Recipe,
    output: Path,
    *,
    official_layout: bool = False,
    order: Sequence[int] | None = None,
    report: Callable[[str], None] = lambda line: None,
    trackers: Sequence[Tracker] = (),
    compiled: bool = False,
) -> dict[str, Any]:
    """Train and write a checkpoint to `output`; an unfinished run there is resumed.

    Args:
        official_layout: write the adapter in the authors' files.
        order: indices of the records in order, instead of a seeded shuffle.
        report: told one line per stage.
        trackers: also report each step to these.
        compiled: compile the decoder layers with torch.compile. Dropout then draws other numbers.

    Returns:
        The card of the run, as written to `emola.json`.

    Raises:
        DependencyError: a tracker is not installed.
        TrainingError: the folder holds another run, the loss is not finite, the disk is full (checkpoints are kept), or
            torch cannot compile here.
    """
    check_trackers(trackers)
    if compiled:
        check_compiler()
    arguments = training_arguments(recipe, output, trackers)
    files = (sources.adapter, sources.base, sources.vision_tower)
    checkpoint = Checkpoint(*files, new_projector_seed=recipe.seed, prior=sources.prior)
    _check_prior(checkpoint.config.prior, sources.conventions)
    stated = {"tokens": sources.tokens, "prior_position": sources.prior_position}
    changes: dict[str, Any] = {key: value for key, value in stated.items() if value}
    checkpoint.config = dataclasses.replace(checkpoint.config, **changes)
    recipe = _resolve_recipe(checkpoint, recipe)
    with writing_into(output) if arguments.process_index == 0 else nullcontext():
        return _train(sources, recipe, output, checkpoint, arguments, order, report, official_layout, compiled)


def _train(
    sources: Sources,
    recipe: Recipe,
    output: Path,
    checkpoint: Checkpoint,
    arguments: Arguments,
    order: Sequence[int] | None,
    report: Callable[[str], None],
    official_layout: bool,
    compiled: bool,
) -> dict[str, Any]:
    with arguments.main_process_first():
        run = _identity(sources, recipe, order, arguments.world_size)
        claimed = claim_folder(output / RUN, run, "training run", TrainingError)
        resume = _last_checkpoint(output) if claimed else None
    encoding = Encoding(checkpoint.config, sources.conventions, checkpoint.statistics, load_tokenizer(checkpoint.base))
    dataset, log = RecordDataset(sources.records, encoding, ranked=recipe.leaves_rows_out), StepLog(output / LOG)
    if checkpoint.config.prior != LANDMARKS:
        checkpoint.measure_prior(_features(sources.records, encoding))
    torch.manual_seed(recipe.seed)  # LoRA starts at random
    model = _load(checkpoint, recipe, arguments)
    if compiled:
        compile_layers(model)
    given = _order(dataset, recipe, arguments.world_size, order)
    loop = RecordTrainer(model, arguments, dataset, given, recipe, log)
    if loop.is_world_process_zero():
        report(f"{len(dataset)} records; trained parameters: {trainable_parts(model)}")
        report(f"resuming from {resume.name}" if resume else "starting")
    with _one_line_errors(output), closing(log):
        loop.train(resume_from_checkpoint=str(resume) if resume else None)
        trained = loop.trained_state()
        card = {**_card(sources, recipe, loop.state), **_origins(checkpoint)}
        if loop.is_world_process_zero():
            _write(output, trained, checkpoint, sources.conventions, recipe, card, official_layout)
    return card


def _check_prior(name: str, conventions: Conventions) -> None:
    if name != LANDMARKS and find_prior(name).needs_points and conventions.landmark_mode == "emola":
        raise TrainingError(
            f"the prior {name} reads coordinates, but landmark files of mode 'emola' hold none: compute them by `emola "
            "data landmarks --replace`"
        )


def _features(records: Sequence[Record], encoding: Encoding) -> Tensor:
    """(N, 212) landmark features of records from all parts of a set."""
    step = math.ceil(len(records) / MEASURED)
    return torch.stack([encoding.landmarks(record) for record in records[::step]])


@contextmanager
def _one_line_errors(output: Path) -> Iterator[None]:
    """Raise what can stop a run as a TrainingError of one line; delete unfinished checkpoints, keep complete ones."""
    try:
        yield
    except TrainingError:
        raise
    except SdkError as error:  # from a loader process it carries a traceback; the last line is the message
        reason = str(error).splitlines()[-1].removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")
    except (OSError, SafetensorError) as error:
        reason = str(error)
    except Exception as error:
        if type(error).__module__.split(".")[0] in get_args(Tracker):  # both name types of their own
            reason = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), 'no reason is given')}"
        elif isinstance(error, RuntimeError) and "inline_container" in str(error):
            reason = "a checkpoint cannot be written"  # torch.save gives no better reason on a full disk
        elif type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = f"--compile failed ({next(iter(str(error).splitlines()), type(error).__name__)}); leave it out"
        else:
            raise
    else:
        return
    _discard_unfinished(output)
    raise TrainingError(f"{output}: {reason}; complete checkpoints are kept, start again to go on from the last")


def _load(checkpoint: Checkpoint, recipe: Recipe, arguments: Arguments) -> EmoLA:
    """The model with its trained parameters in float32 and, in a bfloat16 run, the frozen ones in bfloat16."""
    sharded = parse_flag_from_env("ACCELERATE_USE_FSDP")  # needs one type within a layer
    halved = arguments.bf16 and not sharded and not recipe.trains_decoder
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
    """Keep only the input of each decoder layer and recompute its activations in the backward pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers 5.23 has a new name for it, 5.20 does not
        model.language_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _resolve_recipe(checkpoint: Checkpoint, recipe: Recipe) -> Recipe:
    """The recipe with the LoRA shape of the adapter that the run starts from."""
    if checkpoint.lora is None:
        return recipe
    if recipe.trains_decoder or recipe.load_4bit:
        option = "--load-4bit" if recipe.load_4bit else f"--tune {recipe.tune}"
        raise TrainingError(f"{option} starts from a base without LoRA, not from an adapter ({checkpoint.adapter})")
    given = checkpoint.lora.config
    patterned = given.rank_pattern or given.alpha_pattern
    if given.rslora or patterned or set(given.targets) != set(LORA_TARGETS) or given.alpha != int(given.alpha):
        raise TrainingError(
            f"{checkpoint.adapter}: only plain LoRA of one rank and one whole alpha on {', '.join(LORA_TARGETS)} can "
            "be trained further"
        )
    return dataclasses.replace(recipe, rank=given.rank, alpha=int(given.alpha), dropout=given.dropout)


def _order(dataset: RecordDataset, recipe: Recipe, processes: int, order: Sequence[int] | None) -> RecordOrder:
    if order is not None:
        return FixedOrder(order)
    lengths = dataset.lengths() if recipe.group_by_length else None
    return RecordOrder(len(dataset), recipe.batch_size, recipe.accumulation * processes, recipe.seed, lengths)


def _identity(sources: Sources, recipe: Recipe, order: Sequence[int] | None, processes: int) -> dict[str, Any]:
    """The values that are equal in a run and its continuation, as JSON gives them back."""
    free = ("workers", "save_steps")
    run = {
        "recipe": {key: value for key, value in dataclasses.asdict(recipe).items() if key not in free},
        "conventions": dataclasses.asdict(sources.conventions),
        "base": Path(sources.base).name,
        "adapter": Path(sources.adapter).name if sources.adapter else None,
        "tokens": sources.tokens,
        **{key: value for key in ("prior_position", "prior") if (value := getattr(sources, key))},
        "data": _data_digest(sources.records),
        "order": order,
        "processes": processes,
    }
    identity: dict[str, Any] = json.loads(json.dumps(run))
    return identity


def _data_digest(records: Sequence[Record]) -> str:
    content = [(record.image, record.landmark, record.question, record.answer) for record in records]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _last_checkpoint(output: Path) -> Path | None:
    """The checkpoint from which a run resumes; None if there is no complete one."""
    _discard_unfinished(output)
    return max(output.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]), default=None)


def _discard_unfinished(output: Path) -> None:
    for folder in output.glob("checkpoint-*"):
        if not (folder / COMPLETE).is_file():
            shutil.rmtree(folder, ignore_errors=True)  # other processes delete it too
    shutil.rmtree(temporary(output / FINAL), ignore_errors=True)


def _card(sources: Sources, recipe: Recipe, state: TrainerState) -> dict[str, Any]:
    """Facts about the run for the reader of the checkpoint."""
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


def _origins(checkpoint: Checkpoint) -> dict[str, Any]:
    """Repository and commit of what was downloaded from the Hugging Face hub, for the card."""
    folders = {"base": checkpoint.base, "vision_tower": checkpoint.vision_tower, "adapter": checkpoint.adapter}
    found = {role: hub_origin(folder) for role, folder in folders.items() if folder}
    origins = {role: origin for role, origin in found.items() if origin}
    return {"hub": origins} if origins else {}


def _write(
    output: Path,
    trained: Mapping[str, Tensor],
    checkpoint: Checkpoint,
    conventions: Conventions,
    recipe: Recipe,
    card: Mapping[str, Any],
    official_layout: bool,
) -> None:
    """Write the final checkpoint and its plot; files get their names when all of them are complete."""
    partial = temporary(output / FINAL)
    partial.mkdir()
    if recipe.trains_decoder:
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

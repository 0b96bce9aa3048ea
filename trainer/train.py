"""The training run: transformers' Trainer on records, with the authors' parameter groups, exact resume and one log."""

import dataclasses
import hashlib
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sdk.errors import TrainingError

from .checkpoint import Checkpoint
from .config import CONVENTIONS, Conventions, Tokens
from .data import Encoding, FixedOrder, RecordDataset, RecordOrder, collate
from .lora import load_in_4bit
from .model import EmoLA
from .plot import plot_training, read_log
from .recipe import Recipe, prepare_model, trainable_parts
from .records import Record
from .save import write_adapter, write_complete
from .tokenization import IGNORED, load_tokenizer
from .weights import canonical_name

LOG, RUN, COMPLETE = "log.jsonl", "run.json", "COMPLETE"


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
    arguments = _arguments(recipe, output, tensorboard)
    checkpoint = Checkpoint(sources.adapter, sources.base, sources.vision_tower, new_projector_seed=recipe.seed)
    if sources.tokens:
        checkpoint.config = dataclasses.replace(checkpoint.config, tokens=sources.tokens)
    if checkpoint.lora:
        recipe = _recipe_of(checkpoint, recipe)
    resume = _open_folder(output, _run(sources, recipe, order, arguments.world_size), arguments.process_index)
    tokenizer = load_tokenizer(checkpoint.base)
    encoding = Encoding(checkpoint.config, sources.conventions, checkpoint.statistics, tokenizer)
    dataset = RecordDataset(sources.records, encoding)
    torch.manual_seed(recipe.seed)  # LoRA starts at random
    trainer = _Trainer(
        model=_load(checkpoint, recipe, arguments),
        args=arguments,
        train_dataset=dataset,
        data_collator=collate,
        callbacks=[_Log(output / LOG)],
        order=_order(dataset, recipe, arguments.world_size, order),
    )
    report(f"{len(dataset)} records; trained parameters: {trainable_parts(trainer.model)}")
    report(f"going on from {resume.name}" if resume else "starting")
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        trained = trainer.trained_state()
        card = _card(sources, recipe, trainer.state)
        if trainer.is_world_process_zero():
            _write(output, trained, checkpoint, sources.conventions, recipe, card, official_layout)
    except (OSError, _FullDisk) as error:
        raise TrainingError(f"{output}: {error}; checkpoints written so far are kept: start again to go on") from None
    return card


_FullDisk = RuntimeError  # torch.save and safetensors report a full disk as such


class _Trainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer with a given order of records, four parameter groups, checkpoints of what is trained."""

    def __init__(self, *, order: RecordOrder, **options: Any) -> None:
        super().__init__(**options)
        self.remove_callback(PrinterCallback)  # it writes to stdout
        self._order = order
        self._trained = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        self.model_accepts_loss_kwargs = True  # so that the loss is a mean over the tokens of all processes and passes

    def _get_train_sampler(self, *_: Any) -> RecordOrder:
        return self._order

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with the authors' groups: others and visual projector, each with and without weight decay."""
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(_parameter_groups(model or self.model, self.args), betas=(0.9, 0.999))
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        outputs = model(**inputs)
        loss = outputs.loss
        if num_items_in_batch is not None:
            trained = (inputs["labels"][:, 1:] != IGNORED).sum()
            loss = loss * trained / num_items_in_batch * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Tensor] | None = None) -> None:
        state = self.model.state_dict() if state_dict is None else state_dict
        super()._save(output_dir, {name: state[name] for name in self._trained if name in state})

    def trained_state(self) -> dict[str, Tensor]:
        """What was trained, gathered from all processes."""
        state = self.accelerator.get_state_dict(self.model_wrapped)
        return {name: state[name] for name in self._trained if name in state}


def _parameter_groups(model: nn.Module, arguments: TrainingArguments) -> list[dict[str, Any]]:
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {(p, d): [] for p in (False, True) for d in (True, False)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = not name.endswith("bias") and "norm" not in name
            groups["mm_projector" in name, decays].append(parameter)
    return [
        {
            "params": parameters,
            "lr": arguments.projector_learning_rate if projector else arguments.learning_rate,
            "weight_decay": arguments.weight_decay if decays else 0.0,
        }
        for (projector, decays), parameters in groups.items()
    ]


class _Log(TrainerCallback):
    """One JSON line per step, a progress bar, a mark on complete checkpoints, and a stop when the loss is no number."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bar: tqdm[Any] | None = None
        self._rates: list[float] = []
        self._begin = time.perf_counter()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step")

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        self._rates = [group["lr"] for group in given["optimizer"].param_groups]

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        logs = given["logs"]
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]) or not math.isfinite(logs["grad_norm"]):
            raise TrainingError(
                f"step {state.global_step}: loss {logs['loss']}, gradient norm {logs['grad_norm']}; try a smaller "
                "learning rate or float32. Checkpoints written before are kept"
            )
        if self._bar is not None:
            row = {
                "step": state.global_step,
                "epoch": round(logs["epoch"], 4),
                "loss": logs["loss"],
                "grad_norm": logs["grad_norm"],
                "learning_rates": self._rates,
                "seconds": round(time.perf_counter() - self._begin, 2),
            }
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            self._bar.update(state.global_step - self._bar.n)
            self._bar.set_postfix(loss=f"{logs['loss']:.3f}", rate=f"{self._rates[0]:.1e}")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._bar is not None:
            self._bar.close()


@dataclasses.dataclass
class _Arguments(TrainingArguments):  # type: ignore[misc]
    projector_learning_rate: float = 2e-5


def _arguments(recipe: Recipe, output: Path, tensorboard: bool) -> _Arguments:
    bfloat16 = recipe.precision == "bfloat16" or (recipe.precision == "auto" and torch.cuda.is_available())
    return _Arguments(
        output_dir=str(output),
        learning_rate=recipe.learning_rate,
        projector_learning_rate=recipe.projector_learning_rate,
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulation,
        warmup_steps=recipe.warmup_ratio,
        lr_scheduler_type="cosine",
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        bf16=bfloat16,
        tf32=True if torch.cuda.is_available() else None,
        dataloader_num_workers=recipe.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        save_strategy="steps",
        save_steps=recipe.save_steps,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        seed=recipe.seed,
        remove_unused_columns=False,
        ddp_find_unused_parameters=recipe.tune == "everything",
        report_to="tensorboard" if tensorboard else "none",
    )


def _load(checkpoint: Checkpoint, recipe: Recipe, arguments: _Arguments) -> EmoLA:
    """The model with its trained parameters in float32 and, in a bfloat16 run, the frozen ones in bfloat16."""
    halved = arguments.bf16 and not arguments.fsdp and recipe.tune != "everything"
    lora = "live" if checkpoint.lora else "merged"
    model = checkpoint.load(dtype=torch.bfloat16 if halved else torch.float32, lora=lora)
    if recipe.load_4bit:
        load_in_4bit(model.language_model)
    prepare_model(model, recipe)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if recipe.checkpointing:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # transformers 5.23 has a new name for it, 5.20 does not
            model.language_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    return model


def _recipe_of(checkpoint: Checkpoint, recipe: Recipe) -> Recipe:
    """The recipe with the LoRA shape of the adapter that a run goes on from."""
    given = checkpoint.lora.config if checkpoint.lora else {}
    return dataclasses.replace(recipe, rank=given["r"], alpha=given["lora_alpha"], dropout=given["lora_dropout"])


def _order(dataset: RecordDataset, recipe: Recipe, processes: int, order: Sequence[int] | None) -> RecordOrder:
    if order is not None:
        return FixedOrder(order)
    together = recipe.batch_size * recipe.accumulation * processes
    return RecordOrder(len(dataset), together, recipe.seed, dataset.lengths() if recipe.group_by_length else None)


def _run(sources: Sources, recipe: Recipe, order: Sequence[int] | None, processes: int) -> dict[str, Any]:
    """What makes two runs the same run."""
    return {
        "recipe": dataclasses.asdict(recipe),
        "conventions": dataclasses.asdict(sources.conventions),
        "base": Path(sources.base).name,
        "adapter": Path(sources.adapter).name if sources.adapter else None,
        "tokens": sources.tokens,
        "records": len(sources.records),
        "data": _digest([(r.image, r.landmark, r.question, r.answer) for r in sources.records]),
        "order": _digest(order),
        "processes": processes,
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _open_folder(output: Path, run: Mapping[str, Any], process: int) -> Path | None:
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
        complete = [folder for folder in output.glob("checkpoint-*") if (folder / COMPLETE).is_file()]
        return max(complete, key=lambda folder: int(folder.name.split("-")[1]), default=None)
    if output.exists() and any(output.iterdir()):
        raise TrainingError(f"{output} is not empty and holds no training run; choose another folder")
    if process == 0:
        output.mkdir(parents=True, exist_ok=True)
        known.write_text(json.dumps(run, indent=1), encoding="utf-8")
    return None


def _card(sources: Sources, recipe: Recipe, state: TrainerState) -> dict[str, Any]:
    """What a reader of the checkpoint should know of its run."""
    losses = [row["loss"] for row in state.log_history if "loss" in row]
    return {
        "trained_with": dataclasses.asdict(recipe),
        "steps": state.global_step,
        "records": len(sources.records),
        "data_sha256": _digest([(r.image, r.landmark, r.question, r.answer) for r in sources.records]),
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
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    if recipe.tune == "everything":
        named = {canonical_name(name): tensor for name, tensor in trained.items()}
        weights = ((name, named.get(name, tensor)) for name, tensor in checkpoint.frozen.items())
        tokenizer = checkpoint.base / "tokenizer.model"
        write_complete(partial, weights, checkpoint.config, conventions, checkpoint.statistics, tokenizer, card)
    else:
        projectors = {
            name: tensor
            for name, tensor in checkpoint.frozen.items()
            if name.startswith(("mm_projector.", "landmark_feature_projector."))
        }
        write_adapter(
            partial,
            {**projectors, **trained},
            checkpoint.config,
            conventions,
            recipe,
            card,
            official_layout=official_layout,
        )
    plot_training(read_log(output / LOG), partial / "training.png")
    for path in sorted(partial.iterdir(), key=lambda path: path.name == CONVENTIONS):
        path.replace(output / path.name)
    partial.rmdir()

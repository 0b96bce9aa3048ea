"""The training loop: transformers' Trainer with the authors' parameter groups, a given order of records and a log."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sdk.errors import DependencyError, TrainingError
from sdk.files import append_journal
from trainer.corpus.tensors import RecordDataset, RecordOrder, collate
from trainer.interrupts import ignore_interrupts, starting_processes
from trainer.model import EmoLA
from trainer.tokenization import IGNORED
from trainer.training.recipe import Recipe

Tracker: TypeAlias = Literal["tensorboard", "wandb", "mlflow"]  # names of transformers' integrations
COMPLETE = "COMPLETE"  # a file that marks a complete checkpoint folder


@dataclasses.dataclass
class Arguments(TrainingArguments):
    """Options of transformers' Trainer with a learning rate of the visual projector."""

    projector_learning_rate: float = 2e-5


class StepLog(TrainerCallback):
    """One JSON line per step, a progress bar, a mark in complete checkpoints, an error if the loss is not finite."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bar: tqdm[Any] | None = None
        self._rates: list[float] = []
        self._begin = time.perf_counter()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", disable=None)

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
            append_journal(self._path, row)
            self._bar.update(state.global_step - self._bar.n)
            self._bar.set_postfix(loss=f"{logs['loss']:.3f}", rate=f"{self._rates[0]:.1e}")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        args.distributed_state.wait_for_everyone()
        if state.is_world_process_zero:
            (Path(args.output_dir or "") / f"checkpoint-{state.global_step}" / COMPLETE).touch()

    def close(self) -> None:
        """Close the progress bar, so that it is not drawn again below a message."""
        if self._bar is not None:
            self._bar.close()


class RecordTrainer(Trainer):
    """transformers' Trainer with a given order of records, four parameter groups and checkpoints of trained weights."""

    args: Arguments
    model: nn.Module

    def __init__(
        self,
        model: EmoLA,
        arguments: Arguments,
        dataset: RecordDataset,
        order: RecordOrder,
        recipe: Recipe,
        log: StepLog,
    ) -> None:
        super().__init__(model, arguments, collate, dataset, callbacks=[log])
        self.remove_callback(PrinterCallback)  # it writes to stdout
        self._order, self._recipe = order, recipe
        self._trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.model_accepts_loss_kwargs = True  # makes the loss a mean over the tokens of all processes and passes

    def _get_train_sampler(self, *_: Any) -> RecordOrder:
        return self._order

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader = super().get_train_dataloader()
        loader.worker_init_fn = partial(_prepare_worker, loader.worker_init_fn)
        vars(loader)["_get_iterator"] = partial(_start_workers, loader._get_iterator)
        return loader

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with the authors' groups: others and visual projector, each with and without weight decay."""
        if self.optimizer is None:
            groups = parameter_groups(model or self.model, self.args)
            self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999))
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if self._recipe.leaves_rows_out:  # keeps the same patches as `visual_tokens` at run time
            ranked = inputs["patches"]
            inputs = {**inputs, "patches": ranked[:, : self._patches_read(ranked.shape[1])]}
        outputs = model(**inputs)
        loss = outputs.loss
        if num_items_in_batch is not None:
            trained = (inputs["labels"][:, 1:] != IGNORED).sum()
            loss = loss * trained / num_items_in_batch * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _patches_read(self, patches: int) -> int:
        """Number of patches that this pass reads, drawn at random."""
        if self._recipe.prior_only and torch.rand(()).item() < self._recipe.prior_only:
            return 0  # the tower still runs: DDP expects a gradient of every parameter
        least = self._recipe.keep_visual
        return max(1, round((least + (1 - least) * torch.rand(()).item()) * patches))

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Tensor] | None = None) -> None:
        state = self.model.state_dict() if state_dict is None else state_dict
        super()._save(output_dir, {name: state[name] for name in self._trained if name in state})

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Check that the checkpoint of a resumed run holds exactly the trained parameters."""
        wrong = [name for name in self._trained if name in load_result.missing_keys] + load_result.unexpected_keys
        if wrong:
            raise TrainingError(f"the checkpoint is not of this model ({wrong[0]} and {len(wrong) - 1} more differ)")

    def trained_state(self) -> dict[str, Tensor]:
        """The trained parameters, gathered from all processes; with ZeRO-3 none outside of the main process."""
        state = self.accelerator.get_state_dict(self.model_wrapped) or {}  # ZeRO-3 gives the main process all of them
        return {name: state[name] for name in self._trained if name in state}


def _start_workers(start: Callable[[], Any]) -> Any:
    with starting_processes():
        return start()


def _prepare_worker(prepare: Callable[[int], None] | None, number: int) -> None:
    """Prepare a process that loads records: Ctrl-C is answered by the process that trains."""
    ignore_interrupts()
    if prepare:
        prepare(number)


def parameter_groups(model: nn.Module, arguments: Arguments) -> list[dict[str, Any]]:
    """The trained parameters in four groups: by learning rate, and with or without weight decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {(p, d): [] for p in (False, True) for d in (True, False)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = not name.endswith("bias") and "norm" not in name
            slow = "mm_projector" in name or name.startswith("vision_tower.")
            groups[slow, decays].append(parameter)
    return [
        {
            "params": parameters,
            "lr": arguments.projector_learning_rate if slow else arguments.learning_rate,
            "weight_decay": arguments.weight_decay if decays else 0.0,
        }
        for (slow, decays), parameters in groups.items()
    ]


def check_trackers(trackers: Sequence[Tracker]) -> None:
    """Raise an error if the package of a tracker is not installed, before anything is loaded.

    Raises:
        DependencyError: names the package and the extra that installs it.
    """
    for name in trackers:
        if find_spec(name) is None:
            raise DependencyError(name, name, f"report a run with --report-to {name}")


def training_arguments(recipe: Recipe, output: "Path | str", trackers: Sequence[Tracker] = ()) -> Arguments:
    bfloat16 = recipe.precision == "bfloat16" or (recipe.precision == "auto" and torch.cuda.is_available())
    arguments = Arguments(
        output_dir=str(output),
        use_cpu=not torch.accelerator.is_available(),  # otherwise two processes on a CPU do not connect
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
        # Python drops a Ctrl-C that arrives while `__del__` of a loader ends its workers.
        dataloader_persistent_workers=recipe.workers > 0,
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
        report_to=list(trackers) or "none",
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one device per process: several need torchrun, not nn.DataParallel
    return arguments

"""Options of a training run, with the paper's recipe as defaults, and its estimated cost."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sdk.errors import TrainingError
from sdk.ranges import COUNT, FROM_0, POSITIVE, Range

if TYPE_CHECKING:  # the options of `emola train` are shown without torch
    from peft import LoraConfig
    from torch import nn

    from trainer.model import EmoLA
    from trainer.model.config import EmolaConfig

_RANGES = {
    **dict.fromkeys(("rank", "alpha", "batch_size", "accumulation", "save_steps"), COUNT),
    **dict.fromkeys(("learning_rate", "projector_learning_rate", "weight_decay", "max_grad_norm"), FROM_0),
    **dict.fromkeys(("dropout", "prior_only", "warmup_ratio"), Range(least=0, below=1)),
    "workers": Range(least=0, whole=True),
    "seed": Range(least=0, below=2**32, whole=True),
    "epochs": POSITIVE,
    "max_steps": Range(least=-1, whole=True),
    "keep_visual": Range(above=0, most=1),
}
Tune = Literal["all", "lora", "landmark", "decoder", "everything"]


@dataclass(frozen=True)
class Recipe:
    """Options of a run; the defaults are those of the authors' scripts (FABA-Instruct, one epoch).

    Attributes:
        tune: "all" trains LoRA and both projectors (the paper); "lora" LoRA and visual projector; "landmark" the
            landmark projector only (Table 9); "decoder" the whole decoder and the projectors without LoRA, as LLaVA was
            fine-tuned; "everything" all parameters without LoRA, for small models from scratch.
        rank, alpha, dropout: of LoRA.
        learning_rate: of LoRA and the landmark projector; `projector_learning_rate` of the visual projector and, where
            it is trained, of the vision tower.
        epochs, max_steps: length of the run; a positive `max_steps` takes precedence.
        batch_size: records per device and forward pass; `accumulation` passes make one step.
        warmup_ratio: share of the steps in which the rate rises; a cosine follows.
        keep_visual: smallest share of the visual rows that a pass reads; each pass draws a share between it and 1. It
            prepares the model for pruned faces. 1 trains on all rows, as the authors did.
        prior_only: share of the passes that read the landmark row alone, so that the model learns from that row also
            where the visual rows carry the same information. 0, as the authors did.
        group_by_length: assign the records of a step to devices and passes by their lengths, see `RecordOrder`.
        precision: "bfloat16", "float32", or "auto": bfloat16 if there is an accelerator.
        checkpointing: recompute activations in the backward pass.
        save_steps: steps between two checkpoints for resuming.
        workers: processes that load pictures.
    """

    tune: Tune = "all"
    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05
    learning_rate: float = 1e-4
    projector_learning_rate: float = 2e-5
    epochs: float = 1.0
    max_steps: int = -1
    batch_size: int = 16
    accumulation: int = 1
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    keep_visual: float = 1.0
    prior_only: float = 0.0
    group_by_length: bool = True
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    checkpointing: bool = True
    load_4bit: bool = False
    save_steps: int = 500
    workers: int = 4
    seed: int = 1

    @property
    def has_lora(self) -> bool:
        """Whether the decoder is trained by LoRA."""
        return self.tune in ("all", "lora")

    @property
    def trains_decoder(self) -> bool:
        """Whether the weights of the decoder are trained, so that the result is a complete checkpoint."""
        return self.tune in ("decoder", "everything")

    @property
    def leaves_rows_out(self) -> bool:
        """Whether some passes do not read all visual rows."""
        return self.keep_visual < 1 or self.prior_only > 0

    def lora_config(self) -> "LoraConfig":
        """LoRA on the linear layers of the decoder, for peft."""
        from peft import LoraConfig

        from trainer.model.lora import LORA_TARGETS

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(LORA_TARGETS),
            task_type="CAUSAL_LM",
        )

    def __post_init__(self) -> None:
        for name, allowed in _RANGES.items():
            allowed.check(f"--{name.replace('_', '-')}", getattr(self, name), TrainingError)
        if self.load_4bit and self.trains_decoder:
            raise TrainingError(f"--load-4bit must be off with --tune {self.tune}, which trains these weights")


def prepare_model(model: "EmoLA", recipe: Recipe) -> None:
    """Attach LoRA if the recipe has it and mark the trained parameters.

    Raises:
        TrainingError: the recipe and the tokens of the model do not fit together.
    """
    from peft import PeftModel

    from trainer.model.lora import attach_lora

    model.requires_grad_(recipe.tune == "everything")
    model.language_model.requires_grad_(recipe.trains_decoder)
    if recipe.has_lora:
        if not isinstance(model.language_model, PeftModel):
            model.language_model = attach_lora(model.language_model, recipe.lora_config())
        for name, parameter in model.language_model.named_parameters():
            parameter.requires_grad = ".lora_" in name
    tokens = model.config.tokens
    model.vision_tower.requires_grad_(recipe.tune == "everything" and tokens != "prior")
    model.mm_projector.requires_grad_(recipe.tune != "landmark" and tokens != "prior")
    model.landmark_feature_projector.requires_grad_(recipe.tune != "lora" and tokens != "visual")
    if tokens == "prior" and recipe.keep_visual < 1:
        raise TrainingError("--keep-visual leaves visual rows out, and with --tokens prior there are none")
    if tokens != "both" and recipe.prior_only:
        raise TrainingError(f"--prior-only chooses between visual and landmark rows; --tokens {tokens} has one of them")
    if not trainable_parts(model):
        raise TrainingError(f"--tune {recipe.tune} with --tokens {tokens} trains nothing")


def trainable_parts(model: "nn.Module") -> dict[str, int]:
    """Number of trained parameters by part of the model."""
    counts = {"lora": 0, "visual projector": 0, "landmark projector": 0, "vision tower": 0, "decoder": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            counts[_part(name)] += parameter.numel()
    return {part: count for part, count in counts.items() if count}


def _part(name: str) -> str:
    if "lora_" in name:
        return "lora"
    first = name.split(".")[0]
    parts = {"mm_projector": "visual projector", "landmark_feature_projector": "landmark projector"}
    return parts.get(first, "vision tower" if first == "vision_tower" else "decoder")


def llava_7b() -> "EmolaConfig":
    """The shape of LLaVA-1.5-7b with CLIP ViT-L/14-336."""
    from transformers import LlamaConfig

    from trainer.model.config import EmolaConfig, clip_large

    return EmolaConfig(text=LlamaConfig(vocab_size=32000, max_position_embeddings=4096), vision=clip_large())


def plan(config: "EmolaConfig", recipe: Recipe, records: int | None = None, devices: int = 1) -> dict[str, Any]:
    """Trained parameters, steps and memory of a run, computed on the meta device: no weight is read.

    Args:
        records: size of the training set, if known.
        devices: number of accelerators that share a step.

    Returns:
        `trainable` by part, `total`, `steps` (None without records) and `memory_gb` of one device: weights in 16 bit,
        gradients and the two Adam moments of what is trained in 32 bit, activations of one checkpointed layer.
    """
    import torch

    from trainer.model import EmoLA

    with torch.device("meta"):
        model = EmoLA(config)
        prepare_model(model, recipe)
    trainable = trainable_parts(model)
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(trainable.values())
    per_step = recipe.batch_size * recipe.accumulation * devices
    steps = recipe.max_steps if recipe.max_steps > 0 else None
    if steps is None and records is not None:
        steps = math.ceil(math.ceil(records / per_step) * recipe.epochs)
    memory = _memory(config, recipe, total - trained, trained)
    return {
        "trainable": trainable,
        "total": total,
        "share": trained / total,
        "steps": steps,
        "records_per_step": per_step,
        "memory_gb": {part: round(size / 1e9, 2) for part, size in memory.items()},
    }


def _memory(config: "EmolaConfig", recipe: Recipe, frozen: int, trained: int) -> dict[str, float]:
    """Bytes on one device; an answer about action units is some 200 tokens long."""
    text, answer = config.text, 200
    width = 4 if recipe.precision == "float32" else 2
    rows = recipe.batch_size * (config.image_rows + answer)
    kept = text.num_hidden_layers + 12 if recipe.checkpointing else 12 * text.num_hidden_layers
    logits = (width + 8) * recipe.batch_size * answer * text.vocab_size  # float32 copy and gradient, too
    return {
        "weights": (0.55 if recipe.load_4bit else width) * frozen + 4 * trained,
        "gradients and optimizer": 12.0 * trained,
        "activations": float(width * rows * (text.hidden_size * kept + 4 * text.intermediate_size) + logits),
    }

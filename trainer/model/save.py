"""Checkpoints written to disk: an adapter in our layout or in the authors', or a complete model."""

import dataclasses
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from sdk.files import write_json
from trainer.model.config import CONVENTIONS, Conventions, EmolaConfig, ImageStatistics
from trainer.model.lora import LORA_TARGETS
from trainer.model.priors import LANDMARKS

SHARD_BYTES = 2 << 30
_PREFIX = "base_model.model.model."


def official_name(name: str) -> str:
    """The authors' name of a parameter: `base_model.model.model.mm_projector.0.weight`."""
    inside = name.removeprefix("language_model.")
    return inside if inside.startswith("base_model.") else _PREFIX + inside


def write_adapter(
    folder: Path,
    trained: Mapping[str, Tensor],
    config: EmolaConfig,
    conventions: Conventions,
    lora: LoraConfig,
    card: Mapping[str, Any],
    *,
    official_layout: bool = False,
) -> None:
    """Write an adapter folder.

    Args:
        trained: parameters of the model by name; LoRA factors and both projectors.
        lora: rank, alpha and dropout of the factors.
        card: further facts about the run; goes into `emola.json`.
        official_layout: write the authors' .bin files instead of ours.
    """
    named = {official_name(name): tensor.detach().cpu().contiguous() for name, tensor in trained.items()}
    factors = {name.replace(".default.", "."): tensor for name, tensor in named.items() if ".lora_" in name}
    rest = {name: tensor for name, tensor in named.items() if ".lora_" not in name}
    landmark = {name: tensor for name, tensor in rest.items() if "landmark_feature_projector" in name}
    if official_layout:
        torch.save(factors, folder / "adapter_model.bin")
        torch.save(rest, folder / "non_lora_trainables.bin")
        torch.save(landmark, folder / "landmark_feature_projector.bin")
    else:
        save_file(factors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        save_file(rest, folder / "non_lora_trainables.safetensors", metadata={"format": "pt"})
    write_json(folder / "adapter_config.json", _adapter_config(lora, attached=bool(factors)))
    write_json(folder / "config.json", model_config(config))
    write_conventions(folder, conventions, card)


def write_complete(
    folder: Path,
    weights: Iterable[tuple[str, Tensor]],
    config: EmolaConfig,
    conventions: Conventions,
    statistics: ImageStatistics,
    tokenizer: Path,
    card: "Mapping[str, Any] | None" = None,
) -> int:
    """Write a checkpoint that needs no base; `load_emola(None, folder)` reads it.

    It holds one shard of 2 GB in memory.

    Returns:
        The number of weights.
    """
    places: dict[str, str] = {}
    for number, shard in enumerate(_shards(weights), 1):
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, name)
    write_json(folder / "model.safetensors.index.json", {"weight_map": places})
    write_json(folder / "config.json", {**model_config(config), "vision_config": config.vision.to_diff_dict()})
    statistic = {f"image_{key}": value for key, value in dataclasses.asdict(statistics).items()}
    write_json(folder / "preprocessor_config.json", statistic)
    write_conventions(folder, conventions, card or {})
    shutil.copyfile(tokenizer, folder / "tokenizer.model")
    return len(places)


def write_conventions(folder: Path, conventions: Conventions, card: Mapping[str, Any]) -> None:
    """Write `emola.json`: the conventions and, for people, the card of the run."""
    write_json(folder / CONVENTIONS, {**dataclasses.asdict(conventions), **card})


def model_config(config: EmolaConfig) -> dict[str, Any]:
    """`config.json` in the authors' keys."""
    return {
        **config.text.to_diff_dict(),
        "rope_parameters": config.text.rope_parameters,
        "model_type": "emola",
        "landmark_feature_hidden_size": config.landmark_size,
        "emola_landmark_anchors": config.landmark_anchors,
        **({"emola_prior": config.prior} if config.prior != LANDMARKS else {}),
        "mm_hidden_size": config.vision.hidden_size,
        "mm_vision_select_layer": config.vision_layer,
        "mm_projector_type": config.projector,
        "emola_tokens": config.tokens,
        **({"emola_prior_position": config.prior_position} if config.prior_position != "after" else {}),
        "tokenizer_model_max_length": config.max_length,
    }


def _adapter_config(lora: LoraConfig, *, attached: bool) -> dict[str, Any]:
    """`adapter_config.json` as peft reads it; without LoRA factors it has no targets."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": lora.r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "target_modules": list(LORA_TARGETS) if attached else [],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
    }


def _shards(weights: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in weights:
        if size + tensor.nbytes > SHARD_BYTES and shard:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    yield shard

"""Stage `merge`: base, vision tower and adapter become one complete checkpoint in safetensors, weight by weight."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from trainer.checkpoint import Checkpoint
from trainer.config import CONVENTIONS

SHARD_BYTES = 2 << 30


def merge(checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    """Write the merged checkpoint in the type of its base; `load_emola(None, folder)` reads it.

    Memory: one shard of 2 GB and one weight in float32.
    """
    places: dict[str, str] = {}
    for number, shard in enumerate(_shards(checkpoint), 1):
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name)
        places |= dict.fromkeys(shard, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}, indent=1))
    (folder / "config.json").write_text(json.dumps(_config(checkpoint), indent=1))
    (folder / CONVENTIONS).write_text(json.dumps(dataclasses.asdict(checkpoint.conventions), indent=1))
    statistics = {f"image_{key}": value for key, value in dataclasses.asdict(checkpoint.statistics).items()}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics, indent=1))
    shutil.copyfile(checkpoint.base / "tokenizer.model", folder / "tokenizer.model")
    return {"weights": len(places), "updated": len(checkpoint.lora.pairs) if checkpoint.lora else 0}


def _shards(checkpoint: Checkpoint) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in checkpoint.merged.items():
        if size + tensor.nbytes > SHARD_BYTES and shard:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.contiguous()
        size += tensor.nbytes
    yield shard


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    return {
        **config.text.to_diff_dict(),
        "rope_parameters": config.text.rope_parameters,
        "model_type": "emola",
        "vision_config": config.vision.to_diff_dict(),
        "landmark_feature_hidden_size": config.landmark_size,
        "mm_vision_select_layer": config.vision_layer,
        "mm_projector_type": config.projector,
        "tokenizer_model_max_length": config.max_length,
    }

"""Stage `merge`: base, vision tower and adapter become one complete checkpoint in safetensors, weight by weight."""

from pathlib import Path
from typing import Any

from trainer.checkpoint import Checkpoint
from trainer.model.save import write_complete


def merge(checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    """Write the merged checkpoint in the type of its base; memory: one shard of 2 GB and one weight in float32."""
    count = write_complete(
        folder,
        checkpoint.merged.items(),
        checkpoint.config,
        checkpoint.conventions,
        checkpoint.statistics,
        checkpoint.base / "tokenizer.model",
    )
    return {"weights": count, "updated": len(checkpoint.lora.pairs) if checkpoint.lora else 0}

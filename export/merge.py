"""Stage `merge`: write base, vision tower and adapter as one complete checkpoint in safetensors, weight by weight."""

from pathlib import Path

from export.prepare import ExportJob
from export.stages import Stages
from trainer.checkpoint import Checkpoint
from trainer.model.save import write_complete


def merged_checkpoint(job: ExportJob, stages: Stages) -> Checkpoint:
    """Run the stage and open the merged checkpoint."""
    return Checkpoint(None, stages.run("merge", job.sources, lambda folder: merge(job.checkpoint, folder)))


def merge(checkpoint: Checkpoint, folder: Path) -> dict[str, int]:
    """Write the merged checkpoint in the type of its base; memory holds one shard of 2 GB and one weight in float32."""
    count = write_complete(
        folder,
        checkpoint.merged.items(),
        checkpoint.config,
        checkpoint.conventions,
        checkpoint.statistics,
        checkpoint.base / "tokenizer.model",
    )
    return {"weights": count, "updated": len(checkpoint.lora.pairs) if checkpoint.lora else 0}

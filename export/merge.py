"""Stage `merge`: write base, vision tower and adapter as one complete checkpoint in safetensors, weight by weight."""

from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from export.prepare import ExportJob
from export.stages import Stages
from sdk.progress import Progress
from trainer.checkpoint import Checkpoint
from trainer.model.save import write_complete


def merged_checkpoint(job: ExportJob, stages: Stages) -> Checkpoint:
    """Run the stage and open the merged checkpoint."""
    return Checkpoint(
        None, stages.run("merge", job.sources, lambda folder: merge(job.checkpoint, folder, stages.report))
    )


def merge(checkpoint: Checkpoint, folder: Path, report: Callable[[str], None] = lambda line: None) -> dict[str, int]:
    """Write the merged checkpoint in the type of its base; memory holds one shard of 2 GB and one weight in float32.

    Args:
        checkpoint: base, vision tower and adapter.
        folder: of the stage.
        report: called with the share that is done and the time left.
    """
    progress, names = Progress(report), len(checkpoint.merged)

    def counted() -> Iterator[tuple[str, Tensor]]:
        for number, named in enumerate(checkpoint.merged.items()):
            progress.at(number, names, "weights merged")
            yield named

    count = write_complete(
        folder,
        counted(),
        checkpoint.config,
        checkpoint.conventions,
        checkpoint.statistics,
        checkpoint.base / "tokenizer.model",
    )
    return {"weights": count, "updated": len(checkpoint.lora.pairs) if checkpoint.lora else 0}

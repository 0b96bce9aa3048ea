"""Stage `calibrate`: the input rows of the decoder for training records.

A sequence is fused from system text, image rows, landmark row, question and answer. Plain text would give other
statistics: three of four rows of the decoder's input are of pictures.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from export.model import VisionModule
from export.quantise.activations import ActivationFile
from sdk.errors import DataError, ExportError
from sdk.progress import Progress
from trainer.checkpoint import Checkpoint
from trainer.corpus.checks import check_files
from trainer.corpus.records import Record, read_records
from trainer.corpus.tensors import Encoding
from trainer.tokenization import IMAGE_TOKEN, load_tokenizer


@dataclass(frozen=True)
class CalibrationSet:
    """The records that a decoder is calibrated on.

    Attributes:
        path: training file in the FABA-Instruct layout, with both tasks.
        count: records to draw.
        root: folder of the relative paths; None searches for it above the file.
        seed: of the draw.
    """

    path: Path
    count: int = 128
    root: Path | None = None
    seed: int = 0

    def records(self) -> list[Record]:
        """Draw the records and check that each has a picture and a landmark file.

        Raises:
            ExportError: the file is not a training set or too small, or pictures or landmarks are missing.
        """
        try:
            known = read_records(self.path, self.root)
        except DataError as error:
            raise ExportError(f"{error}; calibration takes training records: question, answer, landmarks") from None
        if not 0 < self.count <= len(known):
            raise ExportError(
                f"{self.path} holds {len(known)} records, {self.count} were requested; pass a larger set or another -n"
            )
        drawn = random.Random(self.seed).sample(known, self.count)
        problems = check_files(drawn)
        if problems:
            raise ExportError(f"{len(problems)} of the drawn records cannot calibrate, first {problems[0]}")
        return drawn


def digest(records: Sequence[Record]) -> str:
    """SHA-256 of everything in the records that reaches the model."""
    found = hashlib.sha256()
    for record in records:
        texts = (record.question.encode(), record.answer.encode())
        for part in (*texts, record.image_path.read_bytes(), record.landmark_path.read_bytes()):
            found.update(hashlib.sha256(part).digest())
    return found.hexdigest()


def calibrate(
    checkpoint: Checkpoint,
    records: Sequence[Record],
    folder: Path,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, int]:
    """Write the fused sequences of the records into a folder; memory holds only the encoders."""
    progress = Progress(report)

    def counted() -> Iterator[Tensor]:
        for number, rows in enumerate(fused_sequences(checkpoint, records)):
            progress.at(number, len(records), "calibration records")
            yield rows

    rows = ActivationFile.save(folder, counted())
    return {"records": len(records), "rows": sum(rows.lengths)}


@torch.inference_mode()
def fused_sequences(checkpoint: Checkpoint, records: Sequence[Record]) -> Iterator[Tensor]:
    """The (T, D) float32 input rows of the decoder for each record."""
    vision = VisionModule(checkpoint)
    encoding, table = _encoding(checkpoint), _table(checkpoint)
    for record in records:
        ids = torch.tensor(encoding.tokens(record)[0])
        at = int((ids == IMAGE_TOKEN).nonzero()[0])
        image = vision(encoding.pixels(record)[None], encoding.landmarks(record)[None])[0]
        fused = torch.cat([table[ids[:at]].float(), image, table[ids[at + 1 :]].float()])
        yield fused[: checkpoint.config.max_length]


def text_sequences(checkpoint: Checkpoint, records: Sequence[Record]) -> Iterator[Tensor]:
    """`fused_sequences` without the image rows, to compare with calibration on text."""
    encoding, table = _encoding(checkpoint), _table(checkpoint)
    for record in records:
        ids = torch.tensor(encoding.tokens(record)[0])
        yield table[ids[ids != IMAGE_TOKEN]].float()


def _encoding(checkpoint: Checkpoint) -> Encoding:
    tokenizer = load_tokenizer(checkpoint.base)
    return Encoding(checkpoint.config, checkpoint.conventions, checkpoint.statistics, tokenizer)


def _table(checkpoint: Checkpoint) -> Tensor:
    return checkpoint.merged["language_model.model.embed_tokens.weight"]

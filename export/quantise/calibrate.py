"""Stage `calibrate`: what the decoder will really read, from training records: system text, image rows, landmark row,
question and answer, fused. Statistics of plain text would misjudge it: three of four rows are pictures."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.graphs.write import Encoder
from export.quantise.activations import Rows
from sdk.errors import DataError, ExportError
from trainer.checkpoint import Checkpoint
from trainer.corpus.checks import check_files
from trainer.corpus.records import Record, read_records
from trainer.corpus.tensors import Encoding
from trainer.tokenization import IMAGE_TOKEN, load_tokenizer


@dataclass(frozen=True)
class CalibrationSet:
    """Which records a decoder is calibrated on.

    Attributes:
        path: training file in the FABA-Instruct layout, both tasks mixed.
        count: records to draw.
        root: folder of the relative paths; None looks for it above the file.
        seed: of the draw.
    """

    path: Path
    count: int = 128
    root: Path | None = None
    seed: int = 0

    def records(self) -> list[Record]:
        """The drawn records, each with a picture and a landmark file.

        Raises:
            ExportError: the file is no training set or too small, or pictures or landmarks are missing.
        """
        try:
            known = read_records(self.path, self.root)
        except DataError as error:
            raise ExportError(f"{error}; calibration takes training records: question, answer, landmarks") from None
        if not 0 < self.count <= len(known):
            raise ExportError(
                f"{self.path} holds {len(known)} records, {self.count} were asked for; give a larger set or another -n"
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
        for part in (record.question.encode(), record.answer.encode(), _read(record.image_path)):
            found.update(hashlib.sha256(part).digest())
        found.update(hashlib.sha256(_read(record.landmark_path)).digest())
    return found.hexdigest()


def calibrate(checkpoint: Checkpoint, records: Sequence[Record], folder: Path) -> dict[str, Any]:
    """Write the fused sequences of the records into a folder; only the encoders are in memory."""
    rows = Rows.save(folder, fused_sequences(checkpoint, records))
    return {"records": len(records), "rows": sum(rows.lengths)}


@torch.inference_mode()
def fused_sequences(checkpoint: Checkpoint, records: Sequence[Record]) -> Iterator[Tensor]:
    """(T, D) float32 input rows of the decoder for each record."""
    encoding, table = _encoding(checkpoint), _table(checkpoint)
    encoder = Encoder(checkpoint)
    for record in records:
        ids = torch.tensor(encoding.tokens(record)[0])
        at = int((ids == IMAGE_TOKEN).nonzero()[0])
        image = encoder(encoding.pixels(record)[None], encoding.landmarks(record)[None])[0]
        fused = torch.cat([table[ids[:at]].float(), image, table[ids[at + 1 :]].float()])
        yield fused[: checkpoint.config.max_length]


def text_sequences(checkpoint: Checkpoint, records: Sequence[Record]) -> Iterator[Tensor]:
    """The same without the image rows, as calibration on text would see them; for comparison."""
    encoding, table = _encoding(checkpoint), _table(checkpoint)
    for record in records:
        ids = torch.tensor(encoding.tokens(record)[0])
        yield table[ids[ids != IMAGE_TOKEN]].float()


def _encoding(checkpoint: Checkpoint) -> Encoding:
    tokenizer = load_tokenizer(checkpoint.base)
    return Encoding(checkpoint.config, checkpoint.conventions, checkpoint.statistics, tokenizer)


def _table(checkpoint: Checkpoint) -> Tensor:
    return checkpoint.merged["language_model.model.embed_tokens.weight"]


def _read(path: Path) -> bytes:
    return path.read_bytes()

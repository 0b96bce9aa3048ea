"""Sequences on disk: what flows from layer to layer, so that memory holds one sequence at a time."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sdk.errors import ExportError
from sdk.files import replacing
from sdk.untrusted_json import read_json


@dataclass(frozen=True)
class ActivationFile:
    """A file of (T, D) sequences of different T, one after another.

    Attributes:
        path: of the file.
        lengths: T of each sequence.
        dtype: of the numbers.
    """

    path: Path
    lengths: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    def __iter__(self) -> Iterator[Tensor]:
        size = self.path.stat().st_size // sum(self.lengths)
        with self.path.open("rb") as file:
            for length in self.lengths:
                yield torch.frombuffer(bytearray(file.read(length * size)), dtype=self.dtype).view(length, -1)

    def write(self, sequences: Iterable[Tensor]) -> "ActivationFile":
        """Fill the file, which is complete as soon as it has its name."""
        with replacing(self.path) as partial, partial.open("wb") as file:
            for sequence in sequences:
                sequence.to("cpu", self.dtype).contiguous().view(torch.uint8).numpy().tofile(file)
        return self

    @classmethod
    def save(cls, folder: Path, sequences: Iterable[Tensor]) -> "ActivationFile":
        """Write `rows.bin` and `rows.json` into a folder, for `load`."""
        lengths: list[int] = []

        def counted() -> Iterator[Tensor]:
            for sequence in sequences:
                lengths.append(len(sequence))
                yield sequence

        cls(folder / "rows.bin", ()).write(counted())
        (folder / "rows.json").write_text(json.dumps(lengths))
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> "ActivationFile":
        """Open what `save` wrote."""
        return cls(folder / "rows.bin", tuple(read_json(folder / "rows.json", ExportError)))

"""An evaluation in several processes: each answers its share of the batches into a journal of its own.

A launcher such as torchrun or `accelerate launch` starts the processes and sets RANK, WORLD_SIZE and LOCAL_RANK. The
first process collects the answers of all. Batches are those of one process, so the answers are the same.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.errors import DataError
from sdk.files import write_file
from sdk.untrusted_json import parse_json

_LONGEST_WAIT_S = 10.0


@dataclass(frozen=True)
class Shard:
    """The share of one process.

    Attributes:
        rank: number of the process, from 0.
        count: number of processes.
        local_rank: number of the process on its machine, and so of its GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise DataError(f"expected RANK from 0 to WORLD_SIZE - 1, found {self.rank} and {self.count}")

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> "Shard":
        """The share that a launcher gives to this process; without launcher the whole."""
        try:
            rank, count, local = (int(environment.get(key) or default) for key, default in _VARIABLES)
        except ValueError:
            raise DataError("expected whole numbers in RANK, WORLD_SIZE and LOCAL_RANK; unset them") from None
        return cls(rank, count, local)

    def has(self, batch: int) -> bool:
        """Whether a batch belongs to this share, by its number."""
        return batch % self.count == self.rank

    def journal(self, path: Path) -> Path:
        """Where this process writes its answers: `path` itself if there is no other process."""
        return path if self.count == 1 else path.with_name(f"{path.stem}.{self.rank}{path.suffix}")


_VARIABLES = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))


def journals(path: Path) -> list[Path]:
    """The journals of all processes of this run and of earlier ones."""
    parts = path.parent.glob(f"{path.stem}.*{path.suffix}")
    return [each for each in (path, *sorted(parts)) if each.is_file()]


def read_parts(path: Path) -> dict[int, dict[str, Any]]:
    """The rows of all journals by index of the record, without incomplete lines: other processes may be writing."""
    rows: dict[int, dict[str, Any]] = {}
    for journal in journals(path):
        content = journal.read_bytes()
        for line in content[: content.rfind(b"\n") + 1].splitlines():
            try:
                row = parse_json(line)
            except ValueError:
                row = None
            if not isinstance(row, dict) or (type(row.get("index")), type(row.get("prediction"))) != (int, str):
                raise DataError(f"{journal} has a line that is not an answer: {line[:60]!r}; delete the line")
            rows[row["index"]] = row
    return rows


def collect(path: Path, count: int) -> None:
    """Put the rows of all processes into one journal, as soon as they are there; a launcher ends all if one fails."""
    pause = 0.1
    while len(rows := read_parts(path)) < count:
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_WAIT_S)
    write_file(path, b"".join(json.dumps(rows[index]).encode() + b"\n" for index in range(count)))
    for part in journals(path)[1:]:
        part.unlink()

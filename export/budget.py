"""What an export needs, stage by stage, before it starts: memory, disk and time.

The rates are of one machine, two cores of an EPYC with bfloat16 and 24 GB, at the shape of LLaVA-1.5-7B.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdk.errors import ExportError
from sdk.progress import duration
from sdk.system_memory import available_memory

_PROCESS = 0.8e9  # bytes of Python, torch and ONNX Runtime
_EXPORTED = 4 * 1.2  # bytes of each weight of the encoders that torch's exporter (2.13) keeps until the process ends
_RATES = {
    "merge": 14.1e9 / 80,  # bytes of files a second: 80 s
    "encode": 1 / 1.1,  # records a second of `calibrate`: 1.05 s for the encoder
    "graphs": 6.74e9 / 360,  # weights a second: 5 to 7 minutes
    "bfloat16": 6.74e9 / 150,  # weights a second of the stage `reference`: 2.5 minutes
    "float32": 6.74e9 / 420,  # the same layer by layer: 7 minutes, estimated from bandwidth and arithmetic
    "seal": 5.17e9 / 216,  # bytes of the bundle a second: 3.6 minutes
}
_GPTQ_LAYER = (25.0, 2.1)  # seconds of a layer of 7B, and for each record: 41.5 s with 8 records
_GPTQ_MEMORY = 4.2 / 0.202  # bytes for each weight of a layer: 4.2 GB
_GATE_RECORD = 60.0 / 6.74e9  # seconds a record and weight: torch and bundle answer about 200 tokens each
_LAYER_7B = 202e6


@dataclass(frozen=True)
class Sizes:
    """What decides the needs of an export.

    Attributes:
        files: bytes of the checkpoint.
        layer, layers: weights of a decoder layer, and their number.
        table: weights of the token table, and of the head.
        encoders: weights of the encoders.
        decoder: bytes of the decoder in the bundle.
        face: bytes of the float32 KV cache of a face with question and answer.
        records, rows: that GPTQ calibrates on, and bytes of their rows on the disk at most; 0 without calibration.
        evaluation: number of records of the gate.
        weight_bytes: of a weight in the arithmetic of the torch model.
        layerwise: that arithmetic holds one layer at a time.
        on_gpu: that arithmetic needs no memory here.
        half: also writes the float16 encoder.
        kept: bytes of the AutoGPTQ folder in the bundle.
    """

    files: float
    layer: int
    layers: int
    table: int
    encoders: int
    decoder: float
    face: float
    records: int = 0
    rows: float = 0
    evaluation: int = 0
    weight_bytes: int = 4
    layerwise: bool = False
    on_gpu: bool = False
    half: bool = False
    kept: float = 0

    @property
    def weights(self) -> int:
        """Of the decoder with table and head."""
        return self.layer * self.layers + 2 * self.table


@dataclass(frozen=True)
class Need:
    """What a stage needs.

    Attributes:
        stage: its name.
        memory: bytes at its peak.
        disk: bytes that it leaves until the export ends.
        seconds: on the machine of this module.
        done: an earlier run finished it.
    """

    stage: str
    memory: float
    disk: float
    seconds: float
    done: bool = False


def needs(sizes: Sizes, stages: Sequence[str], done: frozenset[str] = frozenset()) -> list[Need]:
    """The needs of the stages of an export, in order.

    Args:
        sizes: of the checkpoint and the bundle.
        stages: their names.
        done: those that an earlier run finished.
    """
    measured = {need.stage: need for need in _all(sizes)}
    return [Need(**{**vars(measured[name]), "done": name in done}) for name in stages]


def _all(s: Sizes) -> Iterator[Need]:
    largest = 4 * max(s.table, s.layer / 4)  # bytes of one weight in float32
    graphs = s.decoder + (6 if s.half else 4) * s.encoders + 4 * s.table
    yield Need("merge", min(s.files, 2 << 30) + 3 * largest + _PROCESS, s.files, s.files / _RATES["merge"])
    yield Need("calibrate", 4 * s.encoders + s.face + _PROCESS, s.rows, s.records / _RATES["encode"])
    layer = (_GPTQ_LAYER[0] + _GPTQ_LAYER[1] * s.records) * s.layer / _LAYER_7B
    yield Need("gptq", _GPTQ_MEMORY * s.layer + _PROCESS, s.decoder + 8 * s.table, layer * s.layers)
    rate = _RATES["float32" if s.weight_bytes == 4 else "bfloat16"]
    yield Need("reference", _torch_memory(s, 4), 0, s.weights / rate)
    graph_memory = max(12 * s.encoders, 3 * largest) + _PROCESS  # torch, the exporter and onnx hold the encoders
    yield Need("graphs", graph_memory, graphs, s.weights / _RATES["graphs"])
    yield Need("answers", _PROCESS, 0, 1)
    run = s.decoder + 4 * s.encoders + 4 * s.table + s.face  # the runtime widens encoders, and holds a face
    gate = _torch_memory(s, 8) if s.evaluation else 0
    seconds = graphs / _RATES["seal"] + s.evaluation * _GATE_RECORD * s.weights
    yield Need("seal", _EXPORTED * s.encoders + max(run + _PROCESS, gate), graphs + s.kept, seconds)


def _torch_memory(s: Sizes, batch: int) -> float:
    """The torch model, beside it the KV caches of a batch; a model that fills the memory answers fewer at once."""
    if s.on_gpu:
        return _PROCESS + 2 * s.table
    held = (s.layer + 2 * s.table) if s.layerwise else s.weights
    sequences = 2 if s.weight_bytes == 2 else batch
    return max(4 * s.encoders, s.weight_bytes * held + sequences * s.face * s.weight_bytes / 4) + _PROCESS


def table(found: Sequence[Need]) -> list[str]:
    """The needs as lines for people."""
    lines = ["stage        memory GB   disk GB     about"]
    for need in found:
        time = "done before" if need.done else duration(need.seconds)
        lines.append(f"{need.stage:12}{need.memory / 1e9:10.1f}{need.disk / 1e9:10.1f}{time:>12}")
    left = sum(need.seconds for need in found if not need.done)
    disk = sum(need.disk for need in found)
    peak = max((need.memory for need in found if not need.done), default=0.0)
    return [*lines, f"{'all':12}{peak / 1e9:10.1f}{disk / 1e9:10.1f}{duration(left):>12}"]


def check_memory(found: Sequence[Need], available: float | None = None) -> None:
    """Check that each stage that is left fits into the memory.

    Args:
        found: the stages.
        available: bytes; None asks the system.

    Raises:
        ExportError: names the stage.
    """
    free = available_memory() if available is None else available
    for need in found:
        if not need.done and need.memory > free:
            raise ExportError(
                f"stage {need.stage} needs about {need.memory / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are "
                "available to this process; end other programs, raise the limit of the container or take a larger "
                "machine"
            )


def check_disk(found: Sequence[Need], out: Path, work: Path) -> None:
    """Check that the bundle and what the stages keep until it is complete fit onto the disk.

    What lies in the work folder from an earlier run is used or replaced: it counts as written.

    Args:
        found: the stages.
        out: the bundle.
        work: folder of the stages.

    Raises:
        ExportError: names the folder.
    """
    needed = 0.0
    for need in found:
        written = 0 if not work.is_dir() else sum(_size(path) for path in work.glob(f"{need.stage}*"))
        needed += 0 if need.done else max(0.0, 1.05 * need.disk - written)  # 5 % for small files
    folder = out.parent.resolve()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if free < needed:
        raise ExportError(
            f"{folder}: about {needed / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free; free some or "
            "choose another folder"
        )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

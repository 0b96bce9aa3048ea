"""Run a job on a Ray cluster: Ray Data gives inputs to actors, restarts those that die and repeats their tasks.

Every machine of the cluster needs this package, the bundle and the inputs under the same names.
"""

import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sdk.errors import DependencyError, SdkError, UsageError
from sdk.frames import is_url
from sdk.jobs.inputs import is_video
from sdk.jobs.job import TASK_INPUTS, Job, Record, Worker
from sdk.printable import one_line

_SHARES = 4  # tasks per worker at least, so that all end at about the same time
_CONNECT_S = 10.0
_ROWS = 256  # records of a block
_FATAL = -1  # number in the record of an error that stops the job: Ray would wrap an exception in pages of traceback


@dataclass(frozen=True)
class Cluster:
    """Where to run, and what each worker takes.

    Attributes:
        address: of a Ray cluster; None takes RAY_ADDRESS, or starts Ray on this machine.
        workers: number of actors; None: as many as fit now.
        cpus, gpus: of each worker. None CPUs: all of the smallest machine, or one CPU for a worker with a GPU.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int | None = None
    gpus: float = 0


def analyze_on_ray(job: Job, sources: Sequence[str], known: Sequence[bytes], cluster: Cluster) -> Iterator[Record]:
    """Analyse inputs on a cluster; records come in any order.

    Raises:
        UsageError: no worker fits into the cluster.
        DependencyError: Ray is not installed.
        SdkError: a worker failed, or the cluster cannot be reached.
    """
    with _session(cluster.address) as ray:
        workers, cpus = fit(ray.nodes(), cluster)
        ray.data.DataContext.get_current().enable_progress_bars = False
        records = _inputs(ray, sources, workers).map_batches(
            _Actor,
            fn_constructor_args=(job, known),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=cpus,
            num_gpus=cluster.gpus,
        )
        for batch in records.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in batch.to_pylist():
                if row["number"] == _FATAL:
                    raise SdkError(f"a worker on Ray stopped: {row['error']}")
                yield Record(**row)


def fit(nodes: Sequence[Mapping[str, Any]], cluster: Cluster) -> tuple[int, int]:
    """Number of workers and CPUs of each.

    Args:
        nodes: as `ray.nodes()` gives them.

    Raises:
        UsageError: no worker fits.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    useful = [each for each in alive if each.get("CPU", 0) >= 1 and each.get("GPU", 0) >= cluster.gpus]
    smallest = int(min((each["CPU"] for each in useful), default=0))
    cpus = cluster.cpus or (1 if cluster.gpus else smallest)
    room = [each["CPU"] // cpus for each in useful if cpus]
    if cluster.gpus:
        room = [min(each["CPU"] // cpus, each["GPU"] // cluster.gpus) for each in useful]
    if not (workers := int(sum(room))):
        found = "; ".join(f"{each.get('CPU', 0):g} CPUs, {each.get('GPU', 0):g} GPUs" for each in alive)
        raise UsageError(f"no worker with {cpus or 1} CPUs and {cluster.gpus:g} GPUs fits into this cluster ({found})")
    return cluster.workers or workers, cpus


class _Actor:
    """A worker in a process of the cluster."""

    def __init__(self, job: Job, known: Sequence[bytes]) -> None:
        self._job, self._known = job, known
        self._worker: Worker | None = None

    def __call__(self, batch: Any) -> Iterator[Any]:
        inputs = [(row["number"], os.fsdecode(row["path"])) for row in batch.to_pylist()]
        waiting: list[Record] = []
        try:
            self._worker = self._worker or Worker(self._job, self._known)
            for record in self._worker.records(inputs):
                waiting.append(record)
                if len(waiting) == _ROWS:
                    yield _block(waiting)
                    waiting = []
        except SdkError as error:
            waiting.append(Record(_FATAL, error=str(error)))
        yield _block(waiting)


def _block(records: Sequence[Record]) -> Any:
    import pyarrow

    text, whole = pyarrow.string(), pyarrow.int64()
    kinds = {"number": whole, "sha256": pyarrow.binary(), "part": whole, "analysis": text, "error": text}
    schema = pyarrow.schema([*kinds.items(), ("last", pyarrow.bool_())])
    return pyarrow.Table.from_pylist([record._asdict() for record in records], schema)


def _inputs(ray: Any, sources: Sequence[str], workers: int) -> Any:
    """The inputs as a data set; a block is what a worker takes at a time: some pictures, or one video."""
    pictures: list[dict[str, Any]] = []
    videos: list[dict[str, Any]] = []
    for number, source in enumerate(sources):
        path = source if is_url(source) or not source else os.path.abspath(source)
        (videos if is_video(source) else pictures).append({"number": number, "path": os.fsencode(path)})
    share = min(TASK_INPUTS, -(-len(pictures) // (_SHARES * workers)))
    parts = [
        ray.data.from_items(group, override_num_blocks=-(-len(group) // size))
        for group, size in ((videos, 1), (pictures, share))
        if group
    ]
    return parts[0].union(*parts[1:]) if len(parts) > 1 else parts[0]


@contextmanager
def _session(address: str | None) -> Iterator[Any]:
    """The module ray, connected to a cluster."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # a cluster that is started here would report its use to its makers
    try:
        import ray
        import ray.data
    except ImportError:
        raise DependencyError("ray", "ray", "run a job on a cluster") from None
    started = not ray.is_initialized()
    _check_address(address or os.environ.get("RAY_ADDRESS", ""))
    try:
        if started:
            ray.init(address, log_to_driver=False, logging_level="ERROR")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield ray
    except (ray.exceptions.RayError, ConnectionError, ValueError) as error:
        raise SdkError(f"Ray stopped: {_reason(error)}; start again to go on") from None
    finally:
        if started:
            ray.shutdown()


def _check_address(address: str) -> None:
    """Check that somebody listens at HOST:PORT, for which Ray itself would wait many minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise SdkError(f"no Ray cluster answers at {address} ({error}); start one with: ray start --head") from None


def _reason(error: BaseException) -> str:
    """The last exception in what Ray reports, which may be pages of traceback."""
    found = re.findall(r"^[\w.]*(?:Error|Exception): .+$", str(error), re.MULTILINE)
    return found[-1] if found else one_line(error)[:300]

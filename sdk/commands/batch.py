"""`emola batch SOURCE... --out RESULTS.parquet`"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sdk.bundles.hub import resolve_bundle
from sdk.bundles.manifest import read_manifest
from sdk.commands.analyze import add_model_arguments, analyzer_options, check_inputs_stay
from sdk.errors import UsageError
from sdk.faba.prompts import TASKS
from sdk.jobs.inputs import find_inputs
from sdk.jobs.job import Job, Record, analyze_here
from sdk.jobs.ray_engine import Cluster, analyze_on_ray
from sdk.jobs.store import Store
from sdk.jobs.table import keep_earlier_results, load_pyarrow, write_table

_INTERVAL_S = 30.0  # between two lines of progress where stderr is no terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="folder, pattern, .csv or .parquet of paths, picture, video or URL"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.parquet", help="the table to write")
    parser.add_argument("--column", default="path", help="column of a .csv or .parquet with the paths (default path)")
    add_model_arguments(parser)
    parser.add_argument(
        "--faces",
        choices=("detect", "aligned"),
        default="detect",
        help="aligned: every picture is the crop of one face",
    )
    parser.add_argument("--batch-size", type=int, default=8, help="number of faces decoded at once (default 8)")
    parser.add_argument("--fps", type=float, help="frames of a video to analyse per second (default: every frame)")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="what runs the job (default local)")
    parser.add_argument("--address", help="address of a Ray cluster (default: RAY_ADDRESS, or Ray on this machine)")
    parser.add_argument("--workers", type=int, metavar="N", help="workers on Ray (default: as many as fit)")
    parser.add_argument("--worker-cpus", type=int, metavar="N", help="CPUs of a worker (default: all of a machine)")
    parser.add_argument(
        "--worker-gpus", type=float, metavar="N", help="GPUs of a worker (default 1 with --device cuda or tensorrt)"
    )


def run(args: argparse.Namespace) -> None:
    _check(args)
    load_pyarrow()
    start = time.monotonic()
    sources = find_inputs(args.sources, args.column, offline=args.offline)
    model, tasks = analyzer_options(args), tuple(args.task or TASKS)
    manifest = read_manifest(resolve_bundle(args.bundle, offline=args.offline))
    if manifest.notice:
        print(f"note: {manifest.notice}", file=sys.stderr)
    job = Job(model, tasks, args.faces, args.max_tokens, args.batch_size, args.fps, manifest.digest)
    settings = job.settings()
    with Store(args.out, settings) as store:
        keep_earlier_results(args.out, store, settings)
        _fill(store, _records(args, job, sources, store.known()), len(sources))
        rows = write_table(args.out, store, sources, settings)
        store.remove()
    seconds = time.monotonic() - start
    print(
        f"wrote {args.out}: {rows} rows of {store.count} inputs, {store.failed} failed; {seconds:.1f} s, "
        f"{store.count / seconds:.2f} inputs/s",
        file=sys.stderr,
    )


def _check(args: argparse.Namespace) -> None:
    if args.out.suffix.lower() != ".parquet":
        raise UsageError(f"--out {args.out}: expected a file name ending in .parquet")
    check_inputs_stay(args.sources, args.out)
    for name in ("batch_size", "workers", "worker_cpus"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    for name in ("fps", "worker_gpus"):
        if (value := getattr(args, name)) is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} must be greater than 0, not {value}")
    for name in ("address", "workers", "worker_cpus", "worker_gpus"):
        if args.engine == "local" and getattr(args, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} needs --engine ray")


def _records(args: argparse.Namespace, job: Job, sources: Sequence[str], known: Sequence[bytes]) -> Iterator[Record]:
    if args.engine == "local":
        return analyze_here(job, sources, known)
    gpus = args.worker_gpus or float(args.device in ("cuda", "tensorrt"))
    return analyze_on_ray(job, sources, known, Cluster(args.address, args.workers, args.worker_cpus, gpus))


def _fill(store: Store, records: Iterator[Record], total: int) -> None:
    """Keep all records; show progress, throughput and time left on stderr."""
    from tqdm import tqdm

    interval = 0.1 if sys.stderr.isatty() else _INTERVAL_S
    with tqdm(total=total, unit="input", mininterval=interval, maxinterval=interval, file=sys.stderr) as bar:
        for record in records:
            bar.update(store.add(record))

"""`emola batch SOURCE... --out RESULTS.parquet`"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sdk.bundles.hub import resolve_bundle
from sdk.bundles.manifest import read_manifest
from sdk.commands.options import (
    add_batch_size,
    add_fps,
    add_model_arguments,
    add_picture_arguments,
    analyzer_options,
    check_inputs_stay,
    print_notice,
)
from sdk.errors import UsageError
from sdk.faba.prompts import TASKS
from sdk.jobs.inputs import find_inputs
from sdk.jobs.job import Job, Record, analyze_here
from sdk.jobs.ray_engine import Cluster, analyze_on_ray
from sdk.jobs.store import Store
from sdk.jobs.table import keep_earlier_results, load_pyarrow, write_table
from sdk.ranges import COUNT, POSITIVE, check_options

_INTERVAL_S = 30.0  # between two lines of progress where stderr is no terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="picture, video, folder, pattern such as 'photos/*.jpg', URL, or .csv or .parquet file with a column of "
        "these",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.parquet", help="the table to write")
    parser.add_argument(
        "--column", default="path", metavar="NAME", help="column of a .csv or .parquet file (default %(default)s)"
    )
    add_model_arguments(parser)
    add_picture_arguments(parser)
    add_batch_size(parser)
    add_fps(parser)
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="what runs the job: this process or Ray (default local)",
    )
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="Ray cluster (default: $RAY_ADDRESS, or Ray on this machine)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="number of workers on Ray (default: as many as fit)")
    parser.add_argument(
        "--worker-cpus", type=int, metavar="N", help="number of CPUs of a worker (default: all of a machine)"
    )
    parser.add_argument(
        "--worker-gpus",
        type=float,
        metavar="N",
        help="number of GPUs of a worker (default: 1 with --device cuda or tensorrt, else 0)",
    )


def run(args: argparse.Namespace) -> None:
    _check(args)
    model, tasks = analyzer_options(args), tuple(args.task or TASKS)
    load_pyarrow()
    start = time.monotonic()
    sources = find_inputs(args.sources, args.column, offline=args.offline)
    manifest = read_manifest(resolve_bundle(args.bundle, offline=args.offline))
    print_notice(manifest.notice)
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
    counts, amounts = ("batch_size", "workers", "worker_cpus"), ("fps", "worker_gpus")
    check_options(vars(args), {**dict.fromkeys(counts, COUNT), **dict.fromkeys(amounts, POSITIVE)})
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

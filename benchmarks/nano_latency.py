"""Time the embedded model: one face with both tasks, warm, and `emola analyze` from a cold start.

    python benchmarks/nano_latency.py [--rounds 15]

Both alternate in one run. Figures are medians and quartiles in milliseconds. The answers must be equal in every round.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from sdk import Analyzer
from sdk.commands.demo import PICTURES

PHOTO = PICTURES / "astronaut.jpg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    analyzer = Analyzer()
    expected = analyzer.analyze(PHOTO)
    warm, cold, stages = [], [], []
    for _ in range(args.rounds):
        begin = time.perf_counter()
        analysis = analyzer.analyze(PHOTO)
        warm.append(time.perf_counter() - begin)
        stages.append(analysis.timing_ms)
        assert analysis.faces == expected.faces, "the answer changed between two rounds"
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "sdk", "analyze", PHOTO], check=True, stdout=subprocess.DEVNULL)
        cold.append(time.perf_counter() - begin)
    medians = {stage: statistics.median(times[stage] for times in stages) for stage in stages[0]}
    result = {
        "warm_ms": quartiles(warm),
        "cold_start_ms": quartiles(cold),
        "stages_ms": {stage: round(value, 2) for stage, value in medians.items()},
        "bundle_mb": round(sum(path.stat().st_size for path in bundle_files()) / 1e6, 2),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    print(json.dumps(result))


def quartiles(seconds: list[float]) -> list[float]:
    """Return lower quartile, median and upper quartile in milliseconds."""
    return [round(1000 * float(value), 1) for value in np.quantile(seconds, (0.25, 0.5, 0.75))]


def bundle_files() -> list[Path]:
    from sdk.bundles.hub import EMBEDDED

    return [path for path in EMBEDDED.rglob("*") if path.is_file()]


if __name__ == "__main__":
    main()

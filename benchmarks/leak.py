"""Measure resident memory over a thousand analyses; memory that calls do not release shows as growth.

After a warm-up, the calls alternate between pictures, batches, labels, questions, abandoned streams and cancelled
calls.

    python benchmarks/leak.py [BUNDLE] [--analyses 1000]
"""

import argparse
import gc
import json
import threading
from pathlib import Path

import numpy as np
import skimage.data

from sdk import Analyzer
from sdk.errors import CancelledError

WARM_UP = 100
MAX_GROWTH = 0.05  # share of resident memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", help="folder of a bundle; default: the embedded one")
    parser.add_argument("--analyses", type=int, default=1000)
    args = parser.parse_args()
    print(json.dumps(measure(args.bundle, args.analyses)))


def measure(bundle: str | None, analyses: int) -> dict[str, object]:
    """Run every kind of call in turn; resident memory must grow by less than MAX_GROWTH after the warm-up."""
    analyzer, crop = Analyzer(bundle), skimage.data.astronaut()[40:210, 140:310]
    for count in range(WARM_UP):
        _call(analyzer, crop, count)
    start = _resident_bytes()
    for count in range(analyses):
        _call(analyzer, crop, count)
        if count % 250 == 249:
            print(f"{count + 1:5} analyses  {_resident_bytes() / 1e6:7.1f} MB")
    growth = _resident_bytes() / start - 1
    print(f"{analyses} analyses: {start / 1e6:.1f} MB -> {_resident_bytes() / 1e6:.1f} MB, {100 * growth:+.2f} %")
    assert growth < MAX_GROWTH, f"resident memory grew by {100 * growth:.1f} %, at most {100 * MAX_GROWTH:.0f} %"
    return {"benchmark": "leak", "analyses": analyses, "start_mb": round(start / 1e6, 1), "growth": round(growth, 4)}


def _call(analyzer: Analyzer, crop: np.ndarray, count: int) -> None:
    options = {"color": "rgb", "faces": "aligned", "max_new_tokens": 24}
    match count % 6:
        case 0 | 1:
            analyzer.analyze(crop, **options)
        case 2:
            analyzer.analyze(crop, tasks=("labels",), color="rgb", faces="aligned")
        case 3:
            analyzer.analyze_batch([crop, crop], batch_size=2, **options)
        case 4:
            next(analyzer.stream(crop, "Why?", color="rgb", faces="aligned"))
        case 5:
            cancel = threading.Event()
            cancel.set()
            try:
                analyzer.analyze(crop, cancel=cancel, **options)
            except CancelledError:
                return


def _resident_bytes() -> int:
    """Return the resident bytes of this process after a garbage collection."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


if __name__ == "__main__":
    main()

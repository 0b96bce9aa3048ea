"""Resident memory over a thousand analyses: whatever is kept from call to call shows as growth.

Pictures, batches, labels, questions, abandoned streams and cancelled calls in turn, after a warm-up.

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
LIMIT = 0.05  # growth of resident memory that passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", help="folder of a bundle; default: the embedded one")
    parser.add_argument("--analyses", type=int, default=1000)
    args = parser.parse_args()
    print(json.dumps(measure(args.bundle, args.analyses)))


def measure(bundle: str | None, analyses: int) -> dict[str, object]:
    """Run every verb in turn; resident memory at the end over that after the warm-up, less 1, must stay below LIMIT."""
    analyzer, crop = Analyzer(bundle), skimage.data.astronaut()[40:210, 140:310]
    for count in range(WARM_UP):
        _one(analyzer, crop, count)
    start = _resident()
    for count in range(analyses):
        _one(analyzer, crop, count)
        if count % 250 == 249:
            print(f"{count + 1:5} analyses  {_resident() / 1e6:7.1f} MB")
    growth = _resident() / start - 1
    print(f"{analyses} analyses: {start / 1e6:.1f} MB -> {_resident() / 1e6:.1f} MB, {100 * growth:+.2f} %")
    assert growth < LIMIT, f"resident memory grew by {100 * growth:.1f} %"
    return {"benchmark": "leak", "analyses": analyses, "start_mb": round(start / 1e6, 1), "growth": round(growth, 4)}


def _one(analyzer: Analyzer, crop: np.ndarray, count: int) -> None:
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


def _resident() -> int:
    """Bytes of this process in memory, garbage collected."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


if __name__ == "__main__":
    main()

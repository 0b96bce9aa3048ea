"""Time the frames of a video: those in which faces are detected, and those in which they are followed.

    python benchmarks/video_frames.py [--frames 60] [--detect-every 10]

The video shows a photograph in 640 x 480 that moves by a few pixels from frame to frame. The model reads the face once,
because it does not change. Figures are medians and quartiles in milliseconds, decoding included, and the stages'
medians.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from nano_latency import PHOTO, quartiles
from PIL import Image

from sdk import Analyzer
from sdk.arrays import Pixels

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from clips import write_clip

WIDTH, HEIGHT, ROOM = 640, 480, 40  # pixels; the photograph moves within the room


def moving(frames: int) -> Iterator[Pixels]:
    """A photograph that moves in a circle."""
    with Image.open(PHOTO) as file:
        side = WIDTH + ROOM
        photograph = np.asarray(file.convert("RGB").resize((side, side * file.height // file.width)))
    for index in range(frames):
        angle = 2 * np.pi * index / 50
        x, y = (np.array([1 + np.cos(angle), 1 + np.sin(angle)]) * ROOM / 2).astype(int)
        yield np.ascontiguousarray(photograph[y : y + HEIGHT, x : x + WIDTH])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--detect-every", type=int, default=10)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {"detected": [], "followed": []}
    stages: dict[str, list[dict[str, float]]] = {"detected": [], "followed": []}
    with tempfile.TemporaryDirectory() as folder, Analyzer(max_faces=1) as analyzer:
        path = Path(folder) / "moving.mp4"
        write_clip(path, moving(args.frames))
        begin = time.perf_counter()
        for analysis in analyzer.analyze_video(path, detect_every=args.detect_every):
            now = time.perf_counter()
            (face,) = analysis.faces
            kind = "followed" if face.detection_score is None else "detected"
            if analysis.frame.index:  # the model reads the face in the first
                seconds[kind].append(now - begin)
                stages[kind].append(dict(analysis.timing_ms))
            begin = time.perf_counter()
    result = {}
    for kind, times in seconds.items():
        if not times:
            continue
        names = {name for each in stages[kind] for name in each}
        medians = {name: statistics.median(each.get(name, 0.0) for each in stages[kind]) for name in sorted(names)}
        result[kind] = {"ms": quartiles(times), "stages": {name: round(ms, 2) for name, ms in medians.items()}}
    print(json.dumps({"benchmark": "video_frames", "frames": {k: len(v) for k, v in seconds.items()}, **result}))


if __name__ == "__main__":
    main()

"""Compare detectors: faces found by size on photographs, false faces on pictures without any, and time.

    python benchmarks/detector.py FOLDER --without PICTURES [--detector NAME ...]

FOLDER holds photographs and `faces.csv` with a header and one line for each face:

    file,x,y,side
    portrait.jpg,310,120,84

`x` and `y` are the centre of the face, `side` that of a square from the brows to the chin, in pixels. A face counts as
found if a box has its centre within 0.4 sides and 0.6 to 1.7 times its side. Each face is looked for in the photograph
as it is, and in a picture of 640 x 480 with the photograph scaled so that the face has each of the sizes. PICTURES
holds pictures without faces; each is searched at 640 and at 320 pixels. The detectors are timed in turns on the same
pictures of 640 x 480. Intervals are 95 %, by Wilson's formula.
"""

import argparse
import csv
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sdk.arrays import Pixels
from sdk.batch import pictures_in
from sdk.errors import DataError, SdkError
from sdk.faces.detect import Detection, Detector, open_detector

SIZES = (20, 28, 40, 60, 80, 120, 200)  # pixels of a face's side
PICTURE = (640, 480)
ROUNDS = 30
SURROUNDINGS = ((127, 127, 127), (0, 0, 0), (200, 190, 180))
_START = """
import sys, time
import numpy as np
from sdk.faces.detect import open_detector
begin = time.perf_counter()
open_detector(sys.argv[1]).detect(np.zeros((480, 640, 3), np.uint8))
print(time.perf_counter() - begin)
"""


@dataclass(frozen=True)
class LabelledFace:
    """One line of the file."""

    path: Path
    x: float
    y: float
    side: float


def read_faces(folder: Path) -> list[LabelledFace]:
    """Read `faces.csv`.

    Raises:
        DataError: it is missing, or a line is not a picture and three numbers.
    """
    path = folder / "faces.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                LabelledFace(folder / row["file"], float(row["x"]), float(row["y"]), float(row["side"]))
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: expected the columns file, x, y and side, found {error!r}") from None
    if absent := next((row.path for row in rows if not row.path.is_file()), None):
        raise DataError(f"{path}: there is no picture {absent.name!r}")
    return rows


def finds(detections: Sequence[Detection], x: float, y: float, side: float) -> bool:
    """Whether one of the boxes is that of the face."""
    for found in detections:
        x1, y1, x2, y2 = found.box_xyxy
        near = max(abs((x1 + x2) / 2 - x), abs((y1 + y2) / 2 - y)) < 0.4 * side
        if near and 0.6 * side < found.side < 1.7 * side:
            return True
    return False


def placed(face: LabelledFace, size: int, random: np.random.Generator) -> tuple[Pixels, float, float]:
    """A picture of 640 x 480 in which the face has a size, and the face's centre in it."""
    ratio = size / face.side
    with Image.open(face.path) as file:
        photograph = file.convert("RGB")
    width, height = (max(1, round(length * ratio)) for length in photograph.size)
    photograph = photograph.resize((width, height), Image.Resampling.LANCZOS)
    picture = Image.new("RGB", PICTURE, SURROUNDINGS[int(random.integers(len(SURROUNDINGS)))])
    x, y = random.uniform(0.3, 0.7, 2) * PICTURE
    left, top = round(x - face.x * ratio), round(y - face.y * ratio)
    picture.paste(photograph, (left, top))
    return np.asarray(picture), left + face.x * ratio, top + face.y * ratio


def recall(detector: Detector, faces: Sequence[LabelledFace]) -> Iterator[tuple[str, float, list[float]]]:
    """Yield a size, the share of faces that are found, and its interval."""
    found = {path: detector.detect(_pixels(path)) for path in {face.path for face in faces}}
    hits = [finds(found[face.path], face.x, face.y, face.side) for face in faces]
    yield "as it is", float(np.mean(hits)), wilson(sum(hits), len(hits))
    for size in SIZES:
        random, hits = np.random.default_rng(size), []
        for face in faces:
            picture, x, y = placed(face, size, random)
            hits.append(finds(detector.detect(picture), x, y, size))
        yield f"{size} px", float(np.mean(hits)), wilson(sum(hits), len(hits))


def _pixels(path: Path) -> Pixels:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


def false_faces(detector: Detector, paths: Sequence[Path]) -> tuple[int, int]:
    """Number of boxes, and of pictures searched."""
    boxes = 0
    for path in paths:
        for side in (640, 320):
            with Image.open(path) as file:
                picture = file.convert("RGB")
            picture.thumbnail((side, side))
            boxes += len(detector.detect(np.asarray(picture)))
    return boxes, 2 * len(paths)


def wilson(hits: int, count: int) -> list[float]:
    """The 95 % interval of a share."""
    z, share = 1.96, hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return [round(middle - half, 3), round(middle + half, 3)]


def times(names: Sequence[str], threads: int, pictures: Sequence[Pixels]) -> dict[str, list[float]]:
    """Quartiles in milliseconds of each detector for one picture, in turns."""
    detectors = {name: open_detector(name, threads=threads) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(ROUNDS + 1):
        for name, detector in detectors.items():
            begin = time.perf_counter()
            detector.detect(pictures[turn % len(pictures)])
            if turn:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - begin)
    return {name: [round(1000 * q, 1) for q in statistics.quantiles(each, n=4)] for name, each in seconds.items()}


def start_seconds(name: str) -> float:
    """Median seconds in which a new process opens a detector and searches one picture, imports of the sdk left out."""
    command = [sys.executable, "-c", _START, name]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(5)]
    return statistics.median(map(float, runs))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--without", type=Path, required=True, metavar="PICTURES", help="pictures without faces")
    parser.add_argument(
        "--detector", action="append", help="dlib, auto or an .onnx file; default: dlib and auto, that of the package"
    )
    args = parser.parse_args()
    try:
        names = args.detector or ["dlib", "auto"]
        detectors = {name: open_detector(name) for name in names}
        faces, empty = read_faces(args.folder), [Path(path) for path in pictures_in(args.without)]
        result: dict[str, dict[str, object]] = {name: {} for name in names}
        for name, detector in detectors.items():
            for size, share, interval in recall(detector, faces):
                print(f"{Path(name).name}: {size}, {100 * share:.1f} % of {len(faces)} faces {interval}")
                result[name][size] = [round(share, 3), *interval]
            result[name]["false faces, pictures"] = false_faces(detector, empty)
    except SdkError as error:
        print(f"detector: {error}", file=sys.stderr)
        return 1
    timed = [placed(face, 80, np.random.default_rng(0))[0] for face in faces[:10]]
    for threads in (1, 2):
        for name, quartiles in times(names, threads, timed).items():
            result[name][f"ms, {threads} threads"] = quartiles
    for name in names:
        result[name]["start s"] = round(start_seconds(name), 3)
    print(json.dumps({"benchmark": "detector", "faces": len(faces), "detectors": result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

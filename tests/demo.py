"""`make demo`: from a checkpoint in the authors' files to explained faces on two photographs.

    python tests/demo.py FOLDER

The checkpoint is the tiny one of the tests, with random weights: its words are noise, its path is the real one.
"""

import shutil
import sys
from pathlib import Path

import insightface
import skimage.data
from landmark_network import write_landmark_network
from PIL import Image

from sdk.cli import main

GOLDEN = Path(__file__).parent / "data" / "golden"


def run(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    network = write_landmark_network(folder / "landmark.onnx")
    photo = folder / "astronaut.png"
    Image.fromarray(skimage.data.astronaut()).save(photo)
    group = Path(insightface.__file__).parent / "data/images/t1.jpg"
    bundle = str(folder / "bundle")
    sources = ["--base", str(GOLDEN / "llava-base"), "--vision-tower", str(GOLDEN / "clip")]
    for command in (
        ["export", str(GOLDEN / "llava-lora-emola-trained"), bundle, *sources, "--landmark-model", str(network)],
        ["verify", bundle],
        [
            "analyze",
            str(photo),
            str(group),
            "--bundle",
            bundle,
            "--max-tokens",
            "24",
            "--save",
            str(folder / "annotated"),
        ],
    ):
        print("\n$ emola", *command)
        if code := main(command):
            sys.exit(code)
    print(f"\npictures: {folder}/annotated/  (a tiny checkpoint with random weights: its words are noise)")


if __name__ == "__main__":
    run(Path(sys.argv[1]))

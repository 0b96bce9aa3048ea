"""`make demo`: the embedded model explains a photograph and a rendered face, after the way of any checkpoint was shown.

    python tests/demo.py FOLDER

The checkpoint of the first part is the tiny one of the tests, with random weights: noise for words, but the real path.
"""

import shutil
import sys
from pathlib import Path

from landmark_network import write_landmark_network

from sdk.cli import main
from sdk.commands.demo import PICTURES

GOLDEN = Path(__file__).parent / "data" / "golden"


def run(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    network = write_landmark_network(folder / "landmark.onnx")
    bundle = str(folder / "bundle")
    sources = ["--base", str(GOLDEN / "llava-base"), "--vision-tower", str(GOLDEN / "clip")]
    photo = str(PICTURES / "astronaut.jpg")
    print("A checkpoint in the authors' files becomes a bundle (tiny, random weights: its words are noise)")
    emola("export", str(GOLDEN / "llava-lora-emola-trained"), bundle, *sources, "--landmark-model", str(network))
    emola("verify", bundle)
    print("\nWhat random weights say about a photograph: noise")
    emola("analyze", photo, "--bundle", bundle, "--max-tokens", "24")
    print("\nThe model in the package, trained on rendered faces")
    emola("demo", "--save", str(folder / "pictures"))
    print(f"pictures: {folder}/pictures/astronaut.png, {folder}/pictures/rendered.png")


def emola(*arguments: str) -> None:
    print("\n$ emola", *arguments, flush=True)
    if code := main(arguments):
        sys.exit(code)


if __name__ == "__main__":
    run(Path(sys.argv[1]))

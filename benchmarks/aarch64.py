"""Run the embedded model on an emulated 64-bit ARM processor, and compare its words with those of this machine.

    python benchmarks/aarch64.py build/aarch64 --root ROOT [--qemu qemu-aarch64]

ROOT is the root folder of a Debian or Ubuntu for arm64 with python3, as `debootstrap` or `docker export` make it. The
wheels are the newest ones that pip finds for aarch64 and that Python. qemu emulates user programs; version 7.2 cannot
load ONNX Runtime 1.32, version 10 can. This shows that wheels and kernels work, not how fast they are. Exit status 1
if `emola verify` fails or a word differs.
"""

import argparse
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from sdk.files import replacing

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "sdk/assets/pictures"
PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in (17, 24, 26, 27, 28)))
PACKAGES = ("numpy", "pillow", "pydantic", "tokenizers", "tqdm", "packaging", "onnxruntime", "dlib-bin")
HEADER = (
    "| processor | Python | onnxruntime | numpy | `emola verify` | picture | emotion | action units |\n"
    "|---|---|---|---|---|---|---|---|"
)

WORK = """
import json, platform, sys
import numpy, onnxruntime
from sdk import Analyzer
from sdk.cli import main
status, faces = main(["verify"]), {}
with Analyzer() as analyzer:
    for picture in sys.argv[1:]:
        face = analyzer.analyze(picture).faces[0]
        units = " ".join(unit.id for unit in face.action_units if unit.present)
        faces[picture] = [face.emotion.label, units, face.emotion.description, face.action_units_text]
about = [platform.machine(), platform.python_version(), onnxruntime.__version__, numpy.__version__]
print(json.dumps({"about": about, "verify": status, "faces": faces}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="gets the wheels")
    parser.add_argument("--root", type=Path, required=True, help="root folder of a system for arm64, with python3")
    parser.add_argument("--qemu", default="qemu-aarch64")
    args = parser.parse_args()
    emulated = [args.qemu, "-L", str(args.root), str((args.root / "usr/bin/python3").resolve())]
    version = subprocess.run([*emulated, "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    packages = unpacked_wheels(args.folder, ".".join(version.split(".")[:2]))
    print(HEADER, flush=True)
    found = answers(emulated, [ROOT, packages])
    expected = answers([sys.executable], [ROOT])
    return int(bool(found["verify"]) or found["faces"] != expected["faces"])


def unpacked_wheels(folder: Path, python: str) -> Path:
    """The folder with the packages for aarch64, which are downloaded once."""
    packages = folder / f"packages-{python}"
    if not packages.exists():
        options = [f"--platform={platform}" for platform in PLATFORMS]
        options += ["--only-binary=:all:", f"--python-version={python}", f"--dest={folder / 'wheels'}"]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *options, *PACKAGES], check=True)
        with replacing(packages, folder=True) as partial:
            for wheel in (folder / "wheels").glob("*.whl"):
                with zipfile.ZipFile(wheel) as files:
                    files.extractall(partial)
    return packages


def answers(python: list[str], path: list[Path]) -> dict[str, Any]:
    """What a Python says about the pictures of the package; prints a row for each."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(each.resolve()) for each in path)}
    pictures = sorted(map(str, PICTURES.glob("*.jpg")))
    done = subprocess.run([*python, "-c", WORK, *pictures], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{python[0]}: exit status {done.returncode}: {done.stderr[-1000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for picture, words in found["faces"].items():
        cells = [*found["about"], "passed" if not found["verify"] else "FAILED", Path(picture).name]
        print(f"| {' | '.join(cells)} | {words[0]} | {words[1]} |", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())

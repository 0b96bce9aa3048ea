"""Run the package with the lowest and the newest versions of its runtime dependencies, and without each of them.

    python benchmarks/reliability/dependencies.py build/dependencies [--python 3.10 --python 3.13 ...]
    python benchmarks/reliability/dependencies.py build/dependencies --missing

uv resolves the versions and makes the environments, each for one Python and one resolution; it must be on the PATH or
be importable by this Python (`pip install uv`). Wheels only: where the lowest version that is allowed has none for a
Python, the lowest one that has is used. In each environment a bundle is verified, and a photograph, a batch, a table
and a video are analysed. `--missing` hides one package after the other from this Python: one line must name the extra.
"""

import argparse
import email
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "sdk/assets/pictures/astronaut.jpg"
GOLDEN = ROOT / "tests/data/golden"
RECORDS = GOLDEN / "data/FABAInstruct/train/train_anno.json"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
EXTRAS = "cpu,faces,video,tables,hub"
SHOWN = ("numpy", "pillow", "pydantic", "tokenizers", "tqdm", "onnxruntime", "dlib-bin", "av", "pandas", "matplotlib")
HEADER = f"| Python | versions | result | {' | '.join(SHOWN)} |\n{'|---' * (len(SHOWN) + 3)}|"

CHECK = """
import json, sys
from sdk import Analyzer
from sdk.cli import main
photo, clip = sys.argv[1:3]
assert main(["verify"]) == 0, "verify failed"
analyzer = Analyzer()
one = analyzer.analyze(photo)
two, = analyzer.analyze_batch([photo])
assert one.faces and one.faces == two.faces, "a batch differs"
table = one.to_dataframe()
assert len(table) == len(one.faces)
frames = list(analyzer.analyze_video(clip, max_new_tokens=4))
assert len(frames) == 5, f"{len(frames)} frames of 5"
assert main(["video", clip, "--max-tokens", "4", "--save", clip + ".out.mp4", "--timeline", clip + ".png"]) == 0
import httpx
face = one.faces[0]
present = [unit.id for unit in face.action_units if unit.present]
print("RESULT", json.dumps([face.emotion.label, " ".join(present)]))
"""
# what is hidden, the command line (after "-c" Python code), and the extra that the message must name
MISSING: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("onnxruntime", ("analyze", str(PHOTO)), "cpu"),
    ("dlib", ("analyze", str(PHOTO), "--detector", "dlib"), "faces"),
    ("av", ("video", "clip.mp4"), "video"),
    ("matplotlib", ("video", "clip.mp4", "--timeline", "out.png"), "video"),
    ("pandas", ("-c", f"from sdk import Analyzer; Analyzer().analyze({str(PHOTO)!r}).to_dataframe()"), "tables"),
    ("pyarrow", ("batch", str(PHOTO), "--out", "out.parquet"), "batch"),
    ("fsspec", ("batch", "s3://bucket", "--out", "out.parquet"), "batch"),
    ("httpx", ("info", "owner/name"), "hub"),
    ("torch", ("train", "--dry-run"), "train"),
    ("transformers", ("train", "--dry-run"), "train"),
    ("safetensors", ("train", "--dry-run"), "train"),
    ("sentencepiece", ("data", "check", str(RECORDS), "--base", str(GOLDEN / "llava-base")), "train"),
    ("httpx", ("data", "annotate", ".", "out", "--endpoint", "http://localhost:1/v1", "--model", "m"), "hub"),
    ("numba", ("data", "synthesize", "out", "-n", "1", "--face-model", "none.npz"), "synthetic"),
    ("onnx", ("export", "none", "out", "--base", "none"), "export"),
    ("onnxscript", ("export", "none", "out", "--base", "none"), "export"),
    ("tensorrt", ("engines", str(ROOT / "sdk/assets/emola-nano")), "tensorrt"),
)
HIDE = """
import sys
name, *arguments = sys.argv[1:]
sys.modules[name] = None  # as if it were not installed, also for importlib.util.find_spec
if arguments[0] == "-c":
    try:
        exec(arguments[1])
    except Exception as error:
        sys.exit(f"emola: error: {error}")
from sdk.cli import main
sys.exit(main(arguments))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", action="append", choices=PYTHONS)
    parser.add_argument("--missing", action="store_true", help="hide each package of this Python in turn")
    args = parser.parse_args()
    folder = args.folder.resolve()  # the commands run in it
    folder.mkdir(parents=True, exist_ok=True)
    if args.missing:
        return missing(folder)
    print(HEADER, flush=True)
    wheel, clip, failed = _wheel(folder), _clip(folder), False
    for python in args.python or PYTHONS:
        for resolution in ("lowest-direct", "highest"):
            result, versions = check(folder / f"{python}-{resolution}", python, resolution, wheel, clip)
            failed |= not result.startswith("ok")
            cells = [versions.get(name.lower(), "") for name in SHOWN]
            print(f"| {python} | {resolution.split('-')[0]} | {result} | {' | '.join(cells)} |", flush=True)
    return int(failed)


def check(folder: Path, python: str, resolution: str, wheel: Path, clip: Path) -> tuple[str, dict[str, str]]:
    """Make an environment, use the package in it, and remove it; returns what happened and the versions."""
    shutil.rmtree(folder, ignore_errors=True)
    interpreter = str(folder / "bin/python")
    try:
        _uv("venv", "--quiet", "--python", _interpreter(python), str(folder))
        options = ("--quiet", "--python", interpreter, "--only-binary", ":all:", "--resolution", resolution)
        _uv("pip", "install", *options, *_requirements(wheel), f"emola-edge @ {wheel.resolve().as_uri()}")
        listed = json.loads(_uv("pip", "list", "--quiet", "--python", interpreter, "--format", "json"))
        versions = {row["name"].lower().replace("_", "-"): row["version"] for row in listed}
        command = [interpreter, "-W", "error::DeprecationWarning:sdk", "-c", CHECK, str(PHOTO), str(clip)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=_environment())
        if done.returncode:
            return f"failed: {(done.stderr.strip() or 'no message').splitlines()[-1][:200]}", versions
        found = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
        return f"ok: {', '.join(json.loads(found.removeprefix('RESULT')))}", versions
    except subprocess.CalledProcessError as error:
        return f"not installed: {' '.join(error.stderr.split())[:300]}", {}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _interpreter(python: str) -> str:
    """The path of a Python that is installed here, on the PATH or by pyenv; else its version, for uv to fetch."""
    found = [shutil.which(f"python{python}"), *Path.home().glob(f".pyenv/versions/{python}.*/bin/python")]
    works = (str(path) for path in found if path and not subprocess.call([path, "-c", ""], stderr=subprocess.DEVNULL))
    return next(works, python)


def _uv(*arguments: str) -> str:
    uv = [shutil.which("uv")] if shutil.which("uv") else [sys.executable, "-m", "uv"]
    done = subprocess.run([*map(str, uv), *arguments], check=True, capture_output=True, text=True, env=_environment())
    return done.stdout


def _environment() -> dict[str, str]:
    """Without what would make the package in this folder, or another environment, visible."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "PYENV_VERSION")
    return {key: value for key, value in os.environ.items() if key not in hidden}


def _wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    return next(folder.glob("emola_edge-*.whl"))


def _requirements(wheel: Path) -> list[str]:
    """What the wheel and EXTRAS require, as requirements of our own: uv's lowest-direct looks at these only."""
    with zipfile.ZipFile(wheel) as files:
        name = next(name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(files.read(name))
    found = []
    for line in metadata.get_all("Requires-Dist", []):
        requirement, _, marker = line.partition(";")
        extra = re.search(r'extra == "(.+?)"', marker)
        if extra is None or extra[1] in EXTRAS.split(","):
            found.append(requirement.strip())
    return found


def _clip(folder: Path) -> Path:
    """Five frames of the photograph."""
    sys.path.append(str(ROOT / "tests"))
    from clips import write_clip

    from sdk.faces.images import load_image

    return write_clip(folder / "clip.mp4", [load_image(PHOTO)[:320, :440]] * 5)


def missing(folder: Path) -> int:
    """Hide one package after the other; print a row for each, with the message."""
    clip = str(_clip(folder).resolve())
    print("| package hidden | command | message |\n|---|---|---|", flush=True)
    failed = False
    for package, arguments, extra in MISSING:
        words = [clip if word == "clip.mp4" else word for word in arguments]
        command = [sys.executable, "-c", HIDE, package, *words]
        environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
        lines = [line for line in done.stderr.splitlines() if "error:" in line]
        named = re.search(r"emola-edge\[(.+?)\]", done.stderr)
        right = done.returncode == 1 and len(lines) == 1 and package.split("_")[0] in done.stderr
        right = right and named is not None and set(extra.split(",")) <= set(named[1].split(","))
        failed |= not right
        message = lines[0].removeprefix("emola: error: ") if lines else done.stderr[-200:]
        message = message if right else f"WRONG: {message}"
        print(f"| {package} | {arguments[0]} {Path(arguments[1]).name} | {message} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

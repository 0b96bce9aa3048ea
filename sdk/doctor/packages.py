"""Check Python, the three packages of this project, and the packages of every extra."""

import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

from sdk import __version__
from sdk.doctor.findings import Finding, install, install_missing
from sdk.extras import BASE, module_of, requirements, shortfall

OWN_PACKAGES = ("sdk", "trainer", "export")

# What each extra is for, completing "to ..."; the extras that are not listed are for developing this project.
PURPOSES = {
    "cpu": "run bundles on the CPU",
    "faces": "find faces with dlib",
    "video": "read videos and cameras, draw timelines",
    "tables": "make pandas tables, write .xlsx and .parquet",
    "heif": "read the photographs of iPhones",
    "hub": "download bundles by name",
    "serve": "run emola serve",
    "batch": "run emola batch",
    "ray": "run emola batch on a Ray cluster",
    "openvino": "run decoders on OpenVINO",
    "vllm": "let emola serve decode with vLLM",
    "gpu": "run bundles on an NVIDIA GPU with ONNX Runtime",
    "gptq": "run GPTQ decoders on an NVIDIA GPU",
    "tensorrt": "build and run TensorRT engines",
    "train": "train and evaluate checkpoints",
    "train4bit": "train with frozen weights in 4 bits",
    "deepspeed": "train on several GPUs with DeepSpeed",
    "tensorboard": "follow a training in TensorBoard",
    "wandb": "follow a training in Weights & Biases",
    "mlflow": "follow a training in MLflow",
    "synthetic": "render faces and pretrain small models",
    "export": "turn a checkpoint into a bundle",
}

_HERE = tuple(name for name in PURPOSES if name not in ("hub", "gpu", "gptq", "tensorrt"))

# Without its telemetry, OpenVINO sends nothing; see `sdk.runtime.backends.openvino_graph`.
_IMPORT = "import importlib, sys; sys.modules['openvino_telemetry'] = None; importlib.import_module(sys.argv[1])"


def check_packages() -> Iterator[Finding]:
    """Yield the state of Python, of this installation, and of each extra that needs no GPU and no network."""
    yield Finding("python", "works", f"{platform.python_version()} in {sys.prefix}")
    yield _own_packages()
    yield from _hiding_files(Path.cwd())
    try:
        installed = requirements()
    except PackageNotFoundError:
        yield Finding("emola-edge", "broken", "it is not installed in this Python", install(BASE))
        return
    yield _base(installed[BASE])
    yield from (check_extra(name) for name in _HERE if name in installed)


def check_extra(extra: str) -> Finding:
    """Check that the packages of an extra are here in versions that fit, and that the first can be imported.

    The first is the one that brings compiled code.
    """
    needed = requirements().get(extra, ())
    if not needed:
        return Finding(extra, "absent", f"it has no packages for this system: needed to {PURPOSES[extra]}")
    short = {each.name: text for each in needed if (text := shortfall(each))}
    found = ", ".join(short.values())
    if short and all(text.endswith("is missing") for text in short.values()):
        return Finding(extra, "absent", f"{found}: needed to {PURPOSES[extra]}", install_missing(extra, short))
    if short:
        return Finding(extra, "broken", found, f"{install(extra)} --upgrade")
    if extra in ("cpu", "gpu", "gptq") and _both_runtimes():
        remedy = f"pip uninstall -y onnxruntime onnxruntime-gpu && {install(extra)}"
        return Finding(extra, "broken", "onnxruntime and onnxruntime-gpu overwrite each other's files", remedy)
    if failure := _import_failure(module_of(needed[0])):
        return Finding(extra, "broken", failure, f"{install(extra)} --force-reinstall")
    return Finding(extra, "works", ", ".join(f"{each.name} {version(each.name)}" for each in needed))


def _own_packages() -> Finding:
    """Whether the import names of this project lead to it; other projects use `trainer` and `export`, too."""
    home = Path(__file__).resolve().parents[2]
    for name in OWN_PACKAGES:
        spec = importlib.util.find_spec(name)
        place = Path(spec.origin).resolve() if spec and spec.origin else None
        if place != home / name / "__init__.py":
            advice = "use a virtual environment of its own: python3 -m venv .venv && . .venv/bin/activate"
            return Finding("emola-edge", "broken", f"`import {name}` gives {place or 'nothing'}", advice)
    return Finding("emola-edge", "works", f"{__version__} in {home}")


def _hiding_files(folder: Path) -> Iterator[Finding]:
    """What hides a package of this project from every script in a folder, where Python looks first."""
    home = Path(__file__).resolve().parents[2]
    for name in OWN_PACKAGES:
        for path in (folder / f"{name}.py", folder / name / "__init__.py"):
            if path.is_file() and path.resolve() != home / name / "__init__.py":
                found = f"{path} hides the package {name} of EmoLA Edge from the scripts in {folder}"
                yield Finding("this folder", "broken", found, f"give {path.relative_to(folder).parts[0]} another name")


def _base(needed: tuple[Requirement, ...]) -> Finding:
    short = [text for each in needed if (text := shortfall(each))]
    if short:
        return Finding("packages", "broken", ", ".join(short), f"{install(BASE)} --upgrade")
    return Finding("packages", "works", ", ".join(f"{each.name} {version(each.name)}" for each in needed))


def _both_runtimes() -> bool:
    return not any(shortfall(Requirement(name)) for name in ("onnxruntime", "onnxruntime-gpu"))


@cache
def _import_failure(name: str) -> str | None:
    """Why an installed module cannot be imported; None if it can.

    It is imported in another process, which ends at once if the module needs instructions that this processor lacks.
    """
    quiet = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    # The folder decides what `import` finds first; that of Python holds none of the user's files.
    command = [sys.executable, "-c", _IMPORT, name]
    done = subprocess.run(command, env=quiet, cwd=sys.prefix, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    reason = (done.stderr.strip().splitlines() or [f"Python ended with {done.returncode}"])[-1]
    return f"{name} is installed, but cannot be imported: {reason}"

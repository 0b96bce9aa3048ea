"""Describe the machine: processor, clocks, power mode, versions, load."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sdk import __version__

_CPU = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tokenizers", "tensorrt", "dlib-bin")
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def environment() -> dict[str, str]:
    """Properties of this machine by name; unknown ones are left out."""
    found = {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "usable cores": str(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None,
        "system": platform.platform(),
        "memory": _memory(),
        "governor": _read(_CPU / "scaling_governor"),
        "clock kHz": _read(_CPU / "scaling_cur_freq"),
        "highest clock kHz": _read(_CPU / "cpuinfo_max_freq"),
        "board": _read(Path("/proc/device-tree/model")),
        "power mode": _output("nvpmodel", "-q"),
        "nvidia driver": _output("nvidia-smi", "--query-gpu=name,driver_version,clocks.sm", "--format=csv,noheader"),
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "emola-edge": __version__,
        "git": _git(),
        **{name: _version(name) for name in _PACKAGES},
        **{name: os.environ.get(name) for name in _VARIABLES},
    }
    return {name: value for name, value in found.items() if value}


def processor() -> str:
    """Model of the processor, or its architecture if the model is unknown."""
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory() -> str | None:
    words = (_read(Path("/proc/meminfo")) or "").split()
    return f"{int(words[1]) / 1e6:.1f} GB" if words[:1] == ["MemTotal:"] else None


def _git() -> str | None:
    """The commit of a clone, with a mark if files have changed; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    return _output("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip("\0\n ")
    except (OSError, UnicodeDecodeError):
        return None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(line.strip() for line in done.stdout.splitlines() if line.strip())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

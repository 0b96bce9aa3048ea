"""What a check of this machine found, and the command that mends it."""

import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["works", "absent", "broken"]


@dataclass(frozen=True)
class Finding:
    """One part of this machine.

    Attributes:
        part: its name.
        verdict: "absent": not installed, or not for this machine, which is no error; "broken": it should work here and
            does not.
        found: what is here, or the reason.
        remedy: the command, or the step, that mends it; empty if there is nothing to do.
    """

    part: str
    verdict: Verdict
    found: str
    remedy: str = ""


def install(extra: str) -> str:
    """The command that installs an extra; the base packages for an empty one."""
    return f"pip install 'emola-edge[{extra}]'" if extra else "pip install emola-edge"


def install_missing(extra: str, missing: Collection[str]) -> str:
    """The command that installs an extra; it takes PyTorch for the CPU on a Linux machine without an NVIDIA GPU.

    PyTorch's default build for Linux brings gigabytes of CUDA libraries.

    Args:
        missing: the packages of the extra that are not here.
    """
    if "torch" in missing and sys.platform == "linux" and not shutil.which("nvidia-smi"):
        return f"pip install torch --index-url https://download.pytorch.org/whl/cpu && {install(extra)}"
    return install(extra)

"""Compile the decoder for training: torch.compile fuses the operations between its matrix products."""

import os
import shutil
import sys

from accelerate.utils import parse_flag_from_env

from sdk.errors import TrainingError
from trainer.model import EmoLA

_COMPILERS = {"darwin": "clang++", "win32": "cl"}  # that torch calls unless CXX names one


def check_compiler() -> None:
    """Check before anything is loaded that torch.compile can work in this process.

    Raises:
        TrainingError: there is no C++ compiler, or the decoder is sharded over several devices.
    """
    compiler = os.environ.get("CXX") or _COMPILERS.get(sys.platform, "g++")
    if not shutil.which(compiler):
        raise TrainingError(
            f"--compile needs a C++ compiler, and there is no {compiler}: install one (Debian: apt-get install g++ "
            "python3-dev), or leave the option out"
        )
    if parse_flag_from_env("ACCELERATE_USE_FSDP") or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise TrainingError("--compile is for a model that is not sharded: leave it out with FSDP and ZeRO-3")


def compile_layers(model: EmoLA) -> None:
    """Compile each decoder layer when it is first called; the names of the parameters stay."""
    for module in model.language_model.modules():
        if type(module).__name__ == "LlamaDecoderLayer":
            module.compile()

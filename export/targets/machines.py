"""The machines that people deploy to, from their makers' data sheets.

Bandwidth decides the rate of tokens, arithmetic the time to the first token, and memory whether a model fits.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sdk.errors import ExportError


@dataclass(frozen=True)
class Target:
    """A machine.

    Attributes:
        title: its usual name.
        sm: CUDA compute capability, e.g. "8.7"; None without a GPU.
        memory_gb: that a process can get; the share of the system is subtracted where the memory is shared.
        bandwidth_gbs: of that memory, in 1e9 bytes per second.
        tflops: dense 16-bit matrix arithmetic with 32-bit accumulation, in 1e12 per second. If a data sheet gives only
            a figure for sparse matrices or for narrower numbers, that figure is halved once for each of the two.
        tensorrt: oldest and newest supported version of TensorRT, or None.
        decode_share: share of the bandwidth that a step reaches.
        decode_reason: source of `decode_share`.
        prefill_share: share of the arithmetic that prefill and encoders reach.
        encoder_tflops: as `tflops`, for the encoders where they compute in another precision; None is the same.
    """

    title: str
    sm: str | None
    memory_gb: float
    bandwidth_gbs: float
    tflops: float
    tensorrt: tuple[str, str] | None
    decode_share: float
    decode_reason: str
    prefill_share: float = 0.5
    encoder_tflops: float | None = None

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants to export for it and their options, best first; the ONNX decoder runs everywhere."""
        return ("decoder ort-cuda (--cuda), encoders TensorRT (--tensorrt)", "ort") if self.sm else ("ort",)


_JETSON = "TinyChat reaches 69 % with Vicuna-7B in 4 bits on AGX Orin"
_GEFORCE = "TurboMind and MLC reach 76 % with 7B in 4 bits on an RTX 4090"
_DATACENTRE = "gpt-fast reaches 42 % with 7B in 4 bits on an A100: kernel launches limit it"
_GUESS = "not published for 7B in 4 bits; taken from the most similar machine"
_CPU = "measured with this project's ONNX decoder on 2 cores of an EPYC: benchmarks/bench_decoder.py"

TARGETS: Mapping[str, Target] = {
    "orin-nano-8": Target("Jetson Orin Nano Super 8 GB", "8.7", 6.3, 102, 16.7, ("10.3", "10"), 0.65, _JETSON, 0.4),
    "orin-nx-16": Target("Jetson Orin NX 16 GB", "8.7", 13.8, 102.4, 25.0, ("10.3", "10"), 0.65, _JETSON, 0.4),
    "agx-orin-64": Target("Jetson AGX Orin 64 GB", "8.7", 60.0, 204.8, 42.5, ("10.3", "10"), 0.69, _JETSON, 0.4),
    "thor": Target("Jetson AGX Thor", "11.0", 120.0, 273, 258.0, ("10.13", "11"), 0.6, _GUESS, 0.3),
    "rtx-3090": Target("GeForce RTX 3090", "8.6", 23.5, 936, 71.0, ("10.3", "11"), 0.7, _GEFORCE),
    "rtx-4090": Target("GeForce RTX 4090", "8.9", 23.5, 1008, 165.2, ("10.3", "11"), 0.76, _GEFORCE),
    "rtx-5090": Target("GeForce RTX 5090", "12.0", 31.5, 1792, 209.5, ("10.8", "11"), 0.65, _GUESS),
    "l4": Target("L4", "8.9", 22.5, 300, 121.0, ("10.3", "11"), 0.76, _GEFORCE, 0.4),
    "t4": Target("Tesla T4", "7.5", 14.6, 320, 65.0, ("10.3", "10"), 0.5, _GUESS, 0.4),
    "a100-80": Target("A100 80 GB", "8.0", 79.0, 2039, 312.0, ("10.3", "11"), 0.42, _DATACENTRE),
    "h100": Target("H100 SXM", "9.0", 79.0, 3350, 989.0, ("10.3", "11"), 0.35, _DATACENTRE, 0.4),
    "h200": Target("H200 SXM", "9.0", 140.0, 4800, 989.0, ("10.3", "11"), 0.3, _DATACENTRE, 0.4),
    "dgx-spark": Target("DGX Spark (GB10)", "12.1", 119.0, 273, 125.0, ("10.13", "11"), 0.65, _GUESS, 0.4),
    "cpu": Target("2 CPU cores, AVX-512 VNNI", None, 15.0, 36, 0.727, None, 0.92, _CPU, 0.85, 0.4),
}


# Patterns of the names by which drivers and boards call themselves; a laptop's GPU is another machine.
_NAMES = {
    "orin-nano-8": "Orin Nano",
    "orin-nx-16": "Orin NX",
    "agx-orin-64": "AGX Orin",
    "thor": "Thor",
    "rtx-3090": r"RTX 3090\b(?! Ti)",
    "rtx-4090": r"RTX 4090\b(?! D)",
    "rtx-5090": r"RTX 5090\b(?! D)",
    "l4": r"\bL4\b",
    "t4": r"\bT4\b",
    "a100-80": "A100.*80GB",
    "h100": "H100.*HBM3",
    "h200": "H200",
    "dgx-spark": "GB10",
}


def recognise(name: str) -> str | None:
    """The key of the target that calls itself by a name, e.g. "NVIDIA GeForce RTX 4090"; None if none does."""
    if "Laptop" in name:
        return None
    return next((key for key, pattern in _NAMES.items() if re.search(pattern, name)), None)


def find_target(name: str) -> Target:
    """Find a target by its key.

    Raises:
        ExportError: there is none; the message lists the known ones.
    """
    if name not in TARGETS:
        raise ExportError(f"unknown target {name!r}; known are {', '.join(TARGETS)}")
    return TARGETS[name]

"""Compare settings of ONNX Runtime and other matrix products with those of the runtime: times of prefill and step.

    python benchmarks/ort_settings.py [--layers 2] [--rounds 4] [--only "no spinning" ...] [--folder build/settings]

The decoder has N layers of Vicuna-7B's shape and the head. Every setting has its own session. Each round times all of
them once and the default twice; the ratio of these two is the noise. Logits are compared before anything is timed.
--cpu-time reports CPU seconds of one thread, on which other processes have little effect; compare threads and spinning
only on a quiet machine.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from vicuna import open_vicuna, write_vicuna

from sdk.onnx_session import load_onnxruntime

onnxruntime = load_onnxruntime()

PROMPT, STEPS = 650, 5
SETTLE_SECONDS = 0.1  # until the threads of the previous session stop spinning
ROWS = np.random.default_rng(0).standard_normal((PROMPT + 1, 4096)).astype(np.float32)


@dataclass(frozen=True)
class Setting:
    """The differences from the default.

    Attributes:
        options: attributes of SessionOptions; `entries` are its configuration entries.
        piece: rows of one call of the prefill.
        head_bits: of the output head.
        level: accuracy level of MatMulNBits; 4 multiplies bytes, 1 floats.
        tolerance: relative, of logits; None if the weights differ.
    """

    options: tuple[tuple[str, Any], ...] = ()
    entries: tuple[tuple[str, str], ...] = ()
    piece: int = PROMPT
    head_bits: int = 8
    level: int = 4
    tolerance: float | None = 1e-5


ARENA = (("enable_cpu_mem_arena", True),)
SETTINGS = {
    "default": Setting(),
    "default again": Setting(),
    "no spinning": Setting(entries=(("session.intra_op.allow_spinning", "0"),)),
    "spinning ends with the call": Setting(entries=(("session.force_spinning_stop", "1"),)),
    "one thread": Setting(options=(("intra_op_num_threads", 1),)),
    "memory arena": Setting(options=ARENA),
    "no memory pattern": Setting(options=(("enable_mem_pattern", False),)),
    "arena, weights outside": Setting(options=ARENA, entries=(("session.use_device_allocator_for_initializers", "1"),)),
    "pieces of 325": Setting(piece=325),
    "pieces of 128": Setting(piece=128),
    "float products": Setting(level=1, tolerance=0.05),
    "head in 4 bits": Setting(head_bits=4, tolerance=None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=tuple(SETTINGS))
    parser.add_argument("--cpu-time", action="store_true", help="one thread, CPU seconds")
    parser.add_argument("--folder", type=Path, help="keep the decoders there for another run")
    args = parser.parse_args()
    names = [name for name in SETTINGS if name in args.only or name.startswith("default")]
    with tempfile.TemporaryDirectory() as temporary:
        folder, threads = args.folder or Path(temporary), 1 if args.cpu_time else 0
        variants = {name: Variant(folder, args.layers, SETTINGS[name], threads) for name in names}
        check(variants)
        found = measure(variants, args.rounds, time.process_time if args.cpu_time else time.perf_counter)
    for name, row in found.items():
        print(f"{name:26} prefill {row['prefill_ms']:8.1f} ms {row['prefill_faster']:6.3f}x", end="")
        print(f"   step {row['step_ms']:7.2f} ms {row['step_faster']:6.3f}x")
    print(json.dumps({"benchmark": "ort_settings", "layers": args.layers, "rounds": args.rounds, "ways": found}))


class Variant:
    """A decoder that was opened with one setting."""

    def __init__(self, folder: Path, layers: int, setting: Setting, threads: int) -> None:
        folder = folder / f"{layers}-{setting.head_bits}"
        write_vicuna(folder, layers, setting.head_bits)
        options = onnxruntime.SessionOptions()
        options.enable_cpu_mem_arena = False  # as in the runtime
        options.intra_op_num_threads = threads
        for name, value in setting.options:
            setattr(options, name, value)
        for name, text in setting.entries:
            options.add_session_config_entry(name, text)
        self._piece = setting.piece
        self._decoder = open_vicuna(folder, layers, options, _at_level(folder / "int4.onnx", setting.level))
        self._cache = self._decoder.new_cache(1024)

    def prefill(self) -> np.ndarray:
        self._cache.length = 0
        for begin in range(0, PROMPT, self._piece):
            logits = self._decoder.extend(self._cache, ROWS[begin : min(begin + self._piece, PROMPT)])
        return logits[0].copy()

    def step(self) -> np.ndarray:
        self._cache.length = PROMPT
        return self._decoder.extend(self._cache, ROWS[PROMPT:])[0].copy()


def _at_level(path: Path, level: int) -> str:
    """Write a graph beside `path` whose products have this accuracy level, on the same weight file; return its name."""
    model = onnx.load(path, load_external_data=False)
    for attribute in (attribute for node in model.graph.node for attribute in node.attribute):
        if attribute.name == "accuracy_level":
            attribute.i = level
    onnx.save(model, path.with_stem(f"level{level}"))
    return f"level{level}.onnx"


def check(variants: dict[str, Variant]) -> None:
    """Check that every variant gives the logits of the default; this also warms up."""
    default = variants["default"]
    expected = default.prefill(), default.step()
    for name, variant in variants.items():
        for found, wanted in zip((variant.prefill(), variant.step()), expected, strict=True):
            error = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
            tolerance = SETTINGS[name].tolerance
            assert tolerance is None or error <= tolerance, f"{name}: logits differ by {error:.1e}, at most {tolerance}"


def measure(variants: dict[str, Variant], rounds: int, clock: Callable[[], float]) -> dict[str, dict[str, float]]:
    """Return medians, and the speed relative to the default as the median of the ratios of each round."""
    times: dict[str, dict[str, list[float]]] = {name: {"prefill": [], "step": []} for name in variants}
    for stage, repeats, count in (("prefill", 1, rounds), ("step", STEPS, 5 * rounds)):
        for _ in range(count):
            for name, variant in variants.items():
                time.sleep(SETTLE_SECONDS)
                spent = [milliseconds(getattr(variant, stage), clock) for _ in range(repeats)]
                times[name][stage].append(statistics.median(spent))
    found: dict[str, dict[str, float]] = {}
    for name, mine in times.items():
        found[name] = {}
        for stage, spent in mine.items():
            ratios = [a / b for a, b in zip(times["default"][stage], spent, strict=True)]
            found[name][f"{stage}_ms"] = round(statistics.median(spent), 2)
            found[name][f"{stage}_faster"] = round(statistics.median(ratios), 3)
    return found


def milliseconds(action: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    action()
    return 1000 * (clock() - begin)


if __name__ == "__main__":
    main()

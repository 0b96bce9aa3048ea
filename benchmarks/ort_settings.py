"""What settings of ONNX Runtime and other products do to prefill and step, each beside the default in one run.

    python benchmarks/ort_settings.py [--layers 2] [--rounds 4] [--only "no spinning" ...] [--folder build/settings]

N layers of Vicuna-7B's shape and the head. Every way has a session of its own; in each round all of them take their
turn, and the default takes two, whose ratio is the noise. Logits are compared before anything is timed. With
--cpu-time, CPU seconds of one thread, which other processes change little: threads and spinning need a quiet machine.
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
import onnxruntime
from vicuna import open_vicuna, write_vicuna

PROMPT, STEPS, SETTLE = 650, 5, 0.1  # seconds until the threads of the session before have stopped spinning
ROWS = np.random.default_rng(0).standard_normal((PROMPT + 1, 4096)).astype(np.float32)


@dataclass(frozen=True)
class Way:
    """What differs from the default.

    Attributes:
        options: attributes of SessionOptions; `entries` are its configuration entries.
        piece: rows of prefill that are read at a time.
        head_bits: of the output head.
        level: accuracy level of MatMulNBits; 4 multiplies bytes, 1 floats.
        tolerance: relative, of logits; None where the weights are others.
    """

    options: tuple[tuple[str, Any], ...] = ()
    entries: tuple[tuple[str, str], ...] = ()
    piece: int = PROMPT
    head_bits: int = 8
    level: int = 4
    tolerance: float | None = 1e-5


WAYS = {
    "default": Way(),
    "default again": Way(),
    "no spinning": Way(entries=(("session.intra_op.allow_spinning", "0"),)),
    "one thread": Way(options=(("intra_op_num_threads", 1),)),
    "no arena": Way(options=(("enable_cpu_mem_arena", False),)),
    "no memory pattern": Way(options=(("enable_mem_pattern", False),)),
    "weights outside the arena": Way(entries=(("session.use_device_allocator_for_initializers", "1"),)),
    "pieces of 325": Way(piece=325),
    "pieces of 128": Way(piece=128),
    "float products": Way(level=1, tolerance=0.05),
    "head in 4 bits": Way(head_bits=4, tolerance=None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=tuple(WAYS))
    parser.add_argument("--cpu-time", action="store_true", help="one thread, CPU seconds")
    parser.add_argument("--folder", type=Path, help="keeps the decoders for another run")
    args = parser.parse_args()
    names = [name for name in WAYS if name in args.only or name.startswith("default")]
    with tempfile.TemporaryDirectory() as temporary:
        folder, threads = args.folder or Path(temporary), 1 if args.cpu_time else 0
        subjects = {name: Subject(folder, args.layers, WAYS[name], threads) for name in names}
        check(subjects)
        found = measure(subjects, args.rounds, time.process_time if args.cpu_time else time.perf_counter)
    for name, row in found.items():
        print(f"{name:26} prefill {row['prefill_ms']:8.1f} ms {row['prefill_faster']:6.3f}x", end="")
        print(f"   step {row['step_ms']:7.2f} ms {row['step_faster']:6.3f}x")
    print(json.dumps({"benchmark": "ort_settings", "layers": args.layers, "rounds": args.rounds, "ways": found}))


class Subject:
    """A decoder opened in one of the ways."""

    def __init__(self, folder: Path, layers: int, way: Way, threads: int) -> None:
        folder = folder / f"{layers}-{way.head_bits}"
        write_vicuna(folder, layers, way.head_bits)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        for name, value in way.options:
            setattr(options, name, value)
        for name, text in way.entries:
            options.add_session_config_entry(name, text)
        self._piece = way.piece
        self._decoder = open_vicuna(folder, layers, options, _at_level(folder / "int4.onnx", way.level))
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
    """The name of a graph beside `path` whose products have this accuracy level; the weights are the same file."""
    model = onnx.load(path, load_external_data=False)
    for attribute in (attribute for node in model.graph.node for attribute in node.attribute):
        if attribute.name == "accuracy_level":
            attribute.i = level
    onnx.save(model, path.with_stem(f"level{level}"))
    return f"level{level}.onnx"


def check(subjects: dict[str, Subject]) -> None:
    """Every way gives the logits of the default; this also warms up."""
    default = subjects["default"]
    expected = default.prefill(), default.step()
    for name, subject in subjects.items():
        for found, wanted in zip((subject.prefill(), subject.step()), expected, strict=True):
            error = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
            tolerance = WAYS[name].tolerance
            assert tolerance is None or error <= tolerance, f"{name}: logits differ by {error:.1e}, at most {tolerance}"


def measure(subjects: dict[str, Subject], rounds: int, clock: Callable[[], float]) -> dict[str, dict[str, float]]:
    """Medians, and how many times faster than the default: the median of the ratios of a round."""
    times: dict[str, dict[str, list[float]]] = {name: {"prefill": [], "step": []} for name in subjects}
    for stage, repeats, count in (("prefill", 1, rounds), ("step", STEPS, 5 * rounds)):
        for _ in range(count):
            for name, subject in subjects.items():
                time.sleep(SETTLE)
                spent = [milliseconds(getattr(subject, stage), clock) for _ in range(repeats)]
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

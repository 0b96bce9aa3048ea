"""Measure start-up time and memory: the command line, `import sdk`, opening a bundle, the first token.

    python benchmarks/startup.py [--rounds 9] [--layers 4]

Every command runs in fresh processes; figures are medians in milliseconds. Then a decoder of Vicuna's shape is opened
with several settings, and its resident memory is measured. The logits must be the same with all settings.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from vicuna import PREFIX, open_vicuna, random_vicuna

from sdk.bench.footprint import measure_footprint, resident
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import read_manifest
from sdk.commands.demo import PICTURES
from sdk.onnx_session import load_onnxruntime

PHOTO = PICTURES / "astronaut.jpg"
COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "emola --version": ("-m", "sdk", "--version"),
    "import numpy": ("-c", "import numpy"),
    "from sdk import Analyzer": ("-c", "from sdk import Analyzer"),
    "emola info": ("-m", "sdk", "info"),
    "emola analyze": ("-m", "sdk", "analyze", str(PHOTO)),
}
SETTINGS = ("default", "no prepacking", "arena")  # the default is that of the runtime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layers", type=int, default=4, help="number of layers of the decoder; 0 skips it")
    parser.add_argument("--open", nargs=3, metavar=("FOLDER", "LAYERS", "SETTING"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.open:
        print(json.dumps(open_decoder(Path(args.open[0]), int(args.open[1]), args.open[2])))
        return
    print(json.dumps({"benchmark": "startup", **measure(args.rounds), "decoders": decoders(args.layers)}))


def measure(rounds: int) -> dict[str, object]:
    """Time every command once per round, and open the bundle of the package in its own process."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    manifest, footprints = read_manifest(EMBEDDED), []
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            seconds[name].append(1000 * (time.perf_counter() - begin))
        footprints.append(measure_footprint(EMBEDDED, manifest, manifest.variants[0], PHOTO, "detect"))
    medians = {name: round(statistics.median(found), 1) for name, found in seconds.items()}
    moments = ("import_ms", "open_ms", "first_token_ms", "done_ms", "opened_mb", "mapped_mb", "peak_mb")
    process = {name: round(statistics.median(getattr(found, name) for found in footprints), 1) for name in moments}
    for name, value in {**medians, **process}.items():
        print(f"{name:26} {value:8.1f} {'MB' if name.endswith('_mb') else 'ms'}")
    return {"commands_ms": medians, "nano": process}


def decoders(layers: int) -> dict[str, dict[str, float]]:
    """Open a decoder of Vicuna's shape in one process per setting; return the figures of each."""
    if not layers:
        return {}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        random_vicuna(Path(folder), layers)
        for setting in SETTINGS:
            command = [sys.executable, __file__, "--open", folder, str(layers), setting]
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
            found[setting] = json.loads(lines[-1])
            print(
                f"{layers} layers, {setting:24} "
                + ", ".join(f"{k} {v:.0f}" for k, v in found[setting].items() if k != "logits")
            )
    # Another kernel reads weights that are not prepacked; only rounding may differ.
    expected = found["default"].pop("logits")
    for setting in SETTINGS[1:]:
        assert abs(found[setting].pop("logits") - expected) < 1e-2 * abs(expected), f"{setting}: other logits"
    return found


def open_decoder(folder: Path, layers: int, setting: str) -> dict[str, float]:
    """Open the decoder, read a prefix and decode steps, in the child process; return megabytes and milliseconds."""
    options = load_onnxruntime().SessionOptions()
    if setting == "no prepacking":
        options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = setting == "arena"
    before = resident()
    begin = time.perf_counter()
    decoder = open_vicuna(folder, layers, options)
    found = {"file_mb": sum(path.stat().st_size for path in folder.glob("int4*")) / 1e6}
    found["open_ms"] = 1000 * (time.perf_counter() - begin)
    opened = resident()
    found |= {"opened_mb": opened["resident"] - before["resident"], "mapped_mb": opened["mapped"] - before["mapped"]}
    found["opening_peak_mb"] = opened["peak"] - before["resident"]
    cache, rows = decoder.new_cache(1024), np.random.default_rng(0).standard_normal((PREFIX, 4096)).astype(np.float32)
    decoder.extend(cache, rows)
    found["peak_mb"] = resident()["peak"] - before["resident"]
    steps = []
    for _ in range(9):
        cache.length = PREFIX
        begin = time.perf_counter()
        logits = decoder.extend(cache, rows[:1])
        steps.append(1000 * (time.perf_counter() - begin))
    return {**found, "step_ms": statistics.median(steps), "logits": float(np.abs(logits).max())}


if __name__ == "__main__":
    main()

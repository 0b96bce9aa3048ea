"""Print one table with every goal of docs/performance.md that this machine can measure: `make bench`.

    python benchmarks/goals.py [--only peers overhead] [--layers 4] [--rounds 5] [--limit 403]

Each row comes from the last line of a script of this folder, which is JSON. The scripts assert that what they time is
correct. If a library, data or a GPU is missing, the row says so. The exit code is 1 if a script failed for another
reason.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
EVALUATION = [str(HERE.parent / f"build/nano/eval/eval_{task}_anno.json") for task in ("au", "emotion")]
NANO = str(HERE.parent / "sdk/assets/emola-nano")
RUNS: dict[str, tuple[str, ...]] = {  # script and options; {names} are options of this script
    "peers": ("peers", "--layers", "{layers}", "--rounds", "{rounds}"),
    "second question": ("second_question", "--layers", "{layers}", "--rounds", "{rounds}"),
    "overhead": ("overhead", "--layers", "{layers}"),
    "startup": ("startup", "--layers", "{layers}", "--rounds", "{rounds}"),
    "latency": ("nano_latency", "--rounds", "{rounds}"),
    "drafting": ("drafting", "--data", *EVALUATION, "--limit", "{limit}"),
    "pruning": ("pruning", "prefill", "--layers", "{layers}", "--rounds", "{rounds}"),
    "pruning REGE": ("pruning", "rege", NANO, "--data", EVALUATION[1], "--task", "emotion", "--limit", "{limit}"),
    "gpu": ("gpu",) if shutil.which("nvidia-smi") else ("gpu", "--tiny", "--device", "cpu"),
}


@dataclass(frozen=True)
class Goal:
    """A row of the table.

    Attributes:
        what: what is measured.
        goal: figure to reach.
        run: the script that measures it, a key of RUNS.
        key: where the figure is in the JSON line of that script.
        form: format of the figure.
    """

    what: str
    goal: str
    run: str
    key: tuple[str | int, ...]
    form: str = "{:.2f}x"


LLAMA, COMMANDS = ("peers", "llama.cpp"), ("commands_ms",)
QUARTER = ("difference", "13 landmarks", "difference")  # 13 of the 49 visual rows
STEP, TIME = ("figures", "decode step, batch 1"), "{:.1f} ms"
GOALS = (
    Goal("CPU prefill, 4 Vicuna layers, vs llama.cpp", "1.30x", "peers", (*LLAMA, "prefill_ours_faster")),
    Goal("CPU decode step, same", "1.05x", "peers", (*LLAMA, "step_ours_faster")),
    Goal("second question, of the first", "at most 8 %", "second question", ("ratio",), "{:.1%}"),
    Goal("drafts, AU answers, tokens per second", "1.8x", "drafting", ("action_units", "gain")),
    Goal("144 visual tokens: prefill", "2.5x", "pruning", ("prefill", "144", "faster")),
    Goal("a quarter of the rows: REGE, nano", "-1.0 or more", "pruning REGE", QUARTER, "{:+.2f}"),
    Goal("GPU step at context 700, of the bandwidth", "50 %", "gpu", (*STEP, "share_of_ceiling"), "{:.0%}"),
    Goal("GPU first token, all stages", "20 ms", "gpu", ("figures", "time to first token", "ms"), TIME),
    Goal("GPU second question", "8 ms", "gpu", ("figures", "second question", "ms"), TIME),
    Goal("SDK per token outside the kernels, 4 layers", "at most 2 %", "overhead", ("vicuna", "share"), "{:.2%}"),
    Goal("one face, both questions, emola-nano, warm", "300 ms", "latency", ("warm_ms", 1), TIME),
    Goal("emola --version", "", "startup", (*COMMANDS, "emola --version"), TIME),
    Goal("from sdk import Analyzer", "", "startup", (*COMMANDS, "from sdk import Analyzer"), TIME),
    Goal("emola analyze, cold", "2000 ms", "startup", (*COMMANDS, "emola analyze"), TIME),
    Goal("peak memory, emola-nano", "", "startup", ("nano", "peak_mb"), "{:.0f} MB"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=tuple(RUNS))
    parser.add_argument(
        "--layers", type=int, default=4, help="number of layers of Vicuna-7B's shape; the goals are for 4"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=403, help="evaluation samples; the goals are for 403")
    parser.add_argument("--output", type=Path, default=HERE.parent / "build/bench.json")
    args = parser.parse_args()
    found = {name: run(name, vars(args)) for name in args.only}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\n{'what':46} {'goal':12} measured")
    for goal in GOALS:
        if goal.run in found:
            print(f"{goal.what:46} {goal.goal:12} {measured(goal, found[goal.run])}")
    print(f"\nall figures: {args.output}")
    return int(any(result.get("failed") for result in found.values()))


def run(name: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """Run a script, print its output and return its last line as JSON, or the reason why there is none."""
    script, *options = (option.format_map(sizes) for option in RUNS[name])
    if missing := [option for option in options if option.endswith(".json") and not Path(option).exists()]:
        return {"skipped": f"no {Path(missing[0]).relative_to(HERE.parent)}, which `make nano` renders"}
    print(f"== {name}", flush=True)
    child = subprocess.run([sys.executable, HERE / f"{script}.py", *options], capture_output=True, text=True)
    lines = child.stdout.strip().splitlines()
    print("\n".join(lines if child.returncode else lines[:-1]))
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or ["it failed without a message"])[-1]
        missing = child.returncode == 2 or "ModuleNotFoundError" in reason  # 2 means that an input is missing
        return {"skipped": reason, "failed": not missing}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def measured(goal: Goal, result: dict[str, Any]) -> str:
    """Return the figure of a goal, or the reason why there is none."""
    if "--tiny" in RUNS[goal.run] and "skipped" not in result:
        return "not here: no GPU; the kernels were correct in Triton's interpreter"
    value: Any = result
    for key in goal.key:
        try:
            value = value[key]
        except KeyError:
            return f"{'failed' if value.get('failed') else 'not here'}: {value.get('skipped', f'no {key}')}"
    return goal.form.format(value)


if __name__ == "__main__":
    sys.exit(main())

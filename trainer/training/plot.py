"""Pictures of a training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdk.untrusted_json import parse_json


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of `log.jsonl`; if a step was repeated after a restart, its last row."""
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = parse_json(line)
        except ValueError:
            continue  # a killed run may leave an incomplete line
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def plot_training(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw loss (each step and smoothed) and learning rates over the steps into a picture file."""
    from matplotlib.figure import Figure

    steps = [row["step"] for row in log]
    figure = Figure(figsize=(9, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    losses = [row["loss"] for row in log]
    upper.plot(steps, losses, linewidth=0.7, alpha=0.4, label="loss of the step")
    upper.plot(steps, _smooth(losses), label="smoothed")
    upper.set(ylabel="loss (nats per token)", title=f"{len(log)} steps, last loss {losses[-1]:.3f}")
    upper.legend(loc="upper right")  # "best" is slow: it looks at every point
    for index, name in enumerate(("learning rate", "projector learning rate")):
        lower.plot(steps, [row["learning_rates"][2 * index] for row in log], label=name)
    lower.set(xlabel="step", ylabel="learning rate")
    lower.legend(loc="upper right")
    figure.savefig(path, dpi=110)


def _smooth(values: Sequence[float], share: float = 0.95) -> list[float]:
    """Exponential moving average, corrected for its start."""
    total = weight = 0.0
    smoothed = []
    for value in values:
        total, weight = share * total + (1 - share) * value, share * weight + 1 - share
        smoothed.append(total / weight)
    return smoothed

"""Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks") of probabilities over labels.

A temperature that was fitted to N faces cannot justify more certainty than N faces can show. So the scaled
probabilities are smoothed as if one more face of each label had been seen (Laplace's rule of succession): none is below
1 / (N + number of labels).
"""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sdk.arrays import Doubles

Label = TypeVar("Label")

_EPSILON = 1e-9


def sharpen(probabilities: Mapping[Label, float], temperature: float, samples: int | None = None) -> dict[Label, float]:
    """Apply a temperature to probabilities that sum to 1; below 1 they become more certain, above 1 less certain.

    Args:
        samples: number of faces that the temperature was fitted to; None does not smooth.
    """
    values = calibrated(np.array([list(probabilities.values())]), temperature, samples)[0]
    return dict(zip(probabilities, values.tolist(), strict=True))


def sharpen_each(
    probabilities: Mapping[Label, float], temperature: float, samples: int | None = None
) -> dict[Label, float]:
    """Apply a temperature to the probability of each label on its own; arguments as in `sharpen`."""
    pairs = np.array([[p, 1 - p] for p in probabilities.values()])
    return dict(zip(probabilities, calibrated(pairs, temperature, samples)[:, 0].tolist(), strict=True))


def fit_temperature(probabilities: Doubles, labels: npt.NDArray[np.int64]) -> float:
    """Find the temperature with the lowest negative log-likelihood, in 0.05..20.

    Args:
        probabilities: (N, K), rows sum to 1.
        labels: (N,) indices of the correct labels.
    """
    low, high = np.log(0.05), np.log(20.0)
    golden = (np.sqrt(5) - 1) / 2

    def loss(log_temperature: float) -> float:
        chosen = tempered(probabilities, float(np.exp(log_temperature)))[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(chosen, _EPSILON)).mean())

    for _ in range(40):  # golden-section search: the loss has one minimum over the logarithm
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(np.exp((low + high) / 2))


def calibration_error(probabilities: Doubles, labels: npt.NDArray[np.int64], bins: int = 15) -> float:
    """Expected calibration error in 0..1: |accuracy - confidence| in equal bins of confidence, weighted by their size.

    Args:
        probabilities: (N, K), rows sum to 1.
        labels: (N,) indices of the correct labels.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(right[inside].mean() - confidence[inside].mean()) * inside.mean()
        for inside in (bin_of == index for index in range(bins))
        if inside.any()
    ]
    return float(sum(gaps))


def tempered(probabilities: Doubles, temperature: float) -> Doubles:
    """Apply a temperature to (N, K) probabilities and normalise the rows."""
    logs = np.log(np.maximum(probabilities, _EPSILON)) / temperature
    powers = np.exp(logs - logs.max(1, keepdims=True))
    scaled: Doubles = powers / powers.sum(1, keepdims=True)
    return scaled


def calibrated(probabilities: Doubles, temperature: float, samples: int | None) -> Doubles:
    """Apply a temperature to (N, K) probabilities, and smooth them unless `samples` is None."""
    found = tempered(probabilities, temperature)
    return found if samples is None else (samples * found + 1) / (samples + found.shape[1])

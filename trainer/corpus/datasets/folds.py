"""Three-fold cross-validation over subjects, as for DISFA and BP4D in the paper."""

from collections.abc import Mapping, Sequence

from sdk.errors import DataError
from trainer.corpus.datasets.labelled_face import LabelledFace


def name_parts(*subjects: str) -> dict[str, list[str]]:
    """Three parts from the names of their subjects, parted by blanks."""
    return {f"part{number}": names.split() for number, names in enumerate(subjects, 1)}


def split_fold(samples: Sequence[LabelledFace], fold: int) -> tuple[list[LabelledFace], list[LabelledFace]]:
    """Training and evaluation samples of fold 1, 2 or 3: its own part is evaluated, the two others are trained on."""
    part = f"part{fold}"
    return [s for s in samples if s.split != part], [s for s in samples if s.split == part]


def average_folds(per_au_per_fold: Sequence[Mapping[int, float]]) -> tuple[dict[int, float], float]:
    """Scores of a cross-validation as the paper averages them: over folds, then over action units, both unweighted.

    Args:
        per_au_per_fold: F1 of each action unit in each fold; a unit may be missing from a fold that could not score it.

    Returns:
        The mean of each unit over the folds that have it, and the mean of those.

    Raises:
        DataError: no fold, or no unit in any of them.
    """
    units = sorted({code for fold in per_au_per_fold for code in fold})
    if not units:
        raise DataError("expected the F1 of at least one action unit in at least one fold, found none")
    per_au = {code: _mean([fold[code] for fold in per_au_per_fold if code in fold]) for code in units}
    return per_au, _mean(list(per_au.values()))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

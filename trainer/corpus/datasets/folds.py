"""Three-fold cross-validation over subjects, as for DISFA and BP4D in the paper."""

from collections.abc import Mapping, Sequence

from sdk.errors import DataError
from trainer.corpus.datasets.labelled_face import LabelledFace


def name_parts(*subjects: str) -> dict[str, list[str]]:
    """Three parts from the names of their subjects, which are separated by blanks."""
    return {f"part{number}": names.split() for number, names in enumerate(subjects, 1)}


def split_fold(faces: Sequence[LabelledFace], fold: int) -> tuple[list[LabelledFace], list[LabelledFace]]:
    """Training and evaluation faces of fold 1, 2 or 3: its own part is evaluated, the two others are trained on."""
    part = f"part{fold}"
    return [s for s in faces if s.split != part], [s for s in faces if s.split == part]


def average_folds(per_au_per_fold: Sequence[Mapping[int, float]]) -> tuple[dict[int, float], float]:
    """Average the scores of a cross-validation as the paper does: over folds, then over action units, unweighted.

    Args:
        per_au_per_fold: F1 of each action unit in each fold; a unit without a score is missing from the fold.

    Returns:
        The mean of each unit over the folds that have it, and the mean of these means.

    Raises:
        DataError: there is no fold, or no unit in any fold.
    """
    units = sorted({code for fold in per_au_per_fold for code in fold})
    if not units:
        raise DataError("expected the F1 of at least one action unit in at least one fold, found none")
    per_au = {code: _mean([fold[code] for fold in per_au_per_fold if code in fold]) for code in units}
    return per_au, _mean(list(per_au.values()))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

"""Photographs drawn from each class of a collection such as AffectNet."""

import random
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from sdk.bundles.damage import read_array
from sdk.errors import DataError


def draw(pictures: Mapping[str, Path], count: int, seed: int) -> dict[str, Path]:
    """Draw `count` pictures of each class at random, or all of a class that has fewer.

    The class of `images/7.jpg` is what `annotations/7_exp.npy` beside the folder holds, as AffectNet is distributed;
    without such a file it is the folder of the picture.

    Args:
        pictures: by name.
        count: of each class, at least 1.
        seed: decides which are drawn; the order of the pictures does not matter.

    Raises:
        DataError: the count is below 1, or a file with a class cannot be read.
    """
    if count < 1:
        raise DataError(f"expected at least 1 photograph of each class, not {count}")
    classes: dict[str, list[str]] = defaultdict(list)
    for name, path in pictures.items():
        classes[_class_of(path)].append(name)
    drawn = (
        random.Random(f"{seed} {label}").sample(sorted(names), min(count, len(names)))
        for label, names in sorted(classes.items())
    )
    return {name: pictures[name] for name in sorted(name for names in drawn for name in names)}


def _class_of(picture: Path) -> str:
    path = picture.parent.parent / "annotations" / f"{picture.stem}_exp.npy"
    if not path.is_file():
        return str(picture.parent)
    try:
        return str(read_array(path).item())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} holds no class of an expression ({error}); copy it again") from None

"""Fewer visual rows for the decoder: prefill and KV cache shrink with them, the answers change.

The rows of the patches that tell least about a face are left out before the first decoder layer; the others keep their
order and take consecutive positions, the landmark row stays last. As in VisPruner (arXiv 2412.01818) and unlike FastV
(arXiv 2403.06764) nothing is read off the decoder's attention: no layer has to see all rows first.
"""

from math import isqrt

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from sdk.errors import TaskError


def rows_to_read(image_rows: int, visual_tokens: int | None) -> int:
    """Rows of a face that the decoder reads.

    Args:
        image_rows: rows that the bundle makes of a face.
        visual_tokens: how many of its visual rows to read; None: all.

    Raises:
        TaskError: the bundle does not make so many.
    """
    if visual_tokens is None:
        return image_rows
    made = visual_rows(image_rows)
    if not 1 <= visual_tokens <= made:
        raise TaskError(
            f"visual_tokens must be 1 to {made}, the rows that this bundle makes of a face; found {visual_tokens}"
        )
    return image_rows - made + visual_tokens


def visual_rows(image_rows: int) -> int:
    """How many of the rows at the image's place are patches of a square; a landmark row may follow them."""
    return isqrt(image_rows) ** 2


def prune(rows: Floats, order: npt.NDArray[np.int64], image_rows: int) -> Floats:
    """(image_rows, D) of (rows, D): the first patches of `order`, in the order of the picture, and the landmark row."""
    made = visual_rows(len(rows))
    kept = np.sort(order[: made - (len(rows) - image_rows)])
    return np.concatenate([rows[kept], rows[made:]])

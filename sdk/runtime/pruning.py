"""Pruning of visual rows: a shorter prefill and a smaller KV cache, at the price of different answers.

The rows of the patches that matter least for a face are removed before the first decoder layer. The other rows keep
their order and take consecutive positions; the landmark row stays last. As in VisPruner (arXiv 2412.01818), and unlike
FastV (arXiv 2403.06764), the choice does not depend on the decoder's attention, so no layer has to read all rows.
"""

from math import isqrt

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from sdk.errors import TaskError
from sdk.ranges import COUNT


def rows_to_read(image_rows: int, visual_tokens: int | None) -> int:
    """Number of rows of a face that the decoder reads.

    Args:
        image_rows: rows that the vision encoder makes of a face.
        visual_tokens: how many of its visual rows to read; None reads all.

    Raises:
        TaskError: `visual_tokens` is not in 1..number of visual rows.
    """
    if visual_tokens is None:
        return image_rows
    COUNT.check("visual_tokens", visual_tokens)
    made = visual_rows(image_rows)
    if visual_tokens > made:
        raise TaskError(
            f"visual_tokens must be at most {made}, the visual rows of a face in this bundle, not {visual_tokens}"
        )
    return image_rows - made + visual_tokens


def visual_rows(image_rows: int) -> int:
    """Number of patch rows among the image rows: the largest square; a landmark row may follow them."""
    return isqrt(image_rows) ** 2


def prune(rows: Floats, order: npt.NDArray[np.int64], image_rows: int) -> Floats:
    """Keep the first patches of `order`, in the order of the picture, and the landmark row.

    Args:
        rows: (n, D) output of the vision encoder.
        order: patch indices, the most important first.
        image_rows: rows to keep, the landmark row included.

    Returns:
        (image_rows, D).
    """
    made = visual_rows(len(rows))
    kept = np.sort(order[: made - (len(rows) - image_rows)])
    return np.concatenate([rows[kept], rows[made:]])

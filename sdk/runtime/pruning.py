"""Fewer visual rows for the decoder: prefill and KV cache shrink with them, the answers change.

The rows of the patches that tell least about a face are left out before the first decoder layer; the others keep their
order and take consecutive positions, the landmark row stays last. As in VisPruner (arXiv 2412.01818) and unlike FastV
(arXiv 2403.06764) nothing is read off the decoder's attention: no layer has to see all rows first.
"""

from math import isqrt

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from sdk.bundles.manifest import Manifest
from sdk.errors import TaskError


def with_visual_tokens(manifest: Manifest, count: int | None) -> Manifest:
    """The manifest of a decoder that reads only so many visual rows per face, and says so; None: it reads all.

    Raises:
        TaskError: the tower does not make so many.
    """
    if count is None:
        return manifest
    made = visual_rows(manifest.prompt.image_rows)
    if not 1 <= count <= made:
        raise TaskError(f"visual_tokens must be 1 to {made}, the rows that this bundle makes of a face; found {count}")
    prompt = manifest.prompt.model_copy(update={"image_rows": manifest.prompt.image_rows - made + count})
    notice = "; ".join(filter(None, (manifest.notice, f"read from {count} of the picture's {made} rows")))
    return manifest.model_copy(update={"prompt": prompt, "notice": notice})


def visual_rows(image_rows: int) -> int:
    """How many of the rows at the image's place are patches of a square; a landmark row may follow them."""
    return isqrt(image_rows) ** 2


def prune(rows: Floats, order: npt.NDArray[np.int64], image_rows: int) -> Floats:
    """(image_rows, D) of (rows, D): the first patches of `order`, in the order of the picture, and the landmark row."""
    made = visual_rows(len(rows))
    kept = np.sort(order[: made - (len(rows) - image_rows)])
    return np.concatenate([rows[kept], rows[made:]])

"""The token embeddings of a bundle."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sdk.bundles.damage import read_array, reading
from sdk.bundles.manifest import Geometry
from sdk.errors import IntegrityError


def read_embeddings(path: Path, geometry: Geometry) -> "npt.NDArray[np.generic]":
    """Map the table (vocabulary, D) in float16 or float32 into memory.

    Raises:
        IntegrityError: the file is damaged or has another shape.
    """
    with reading(path, "a table of embeddings"):
        table: npt.NDArray[np.generic] = read_array(path, mapped=True)
    expected = (geometry.vocabulary, geometry.hidden_size)
    if table.shape != expected or table.dtype not in (np.float16, np.float32):
        raise IntegrityError(f"{path}: expected a table of {expected} floats, found {table.dtype} of {table.shape}")
    return table

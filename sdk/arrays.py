"""Types of the arrays that modules pass to each other."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int32]
Pixels: TypeAlias = npt.NDArray[np.uint8]  # (H, W, 3) RGB

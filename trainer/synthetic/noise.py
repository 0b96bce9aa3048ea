"""Smooth random fields, computed once and cut at random places."""

import numpy as np
from PIL import Image

from sdk.arrays import Floats


class NoiseBank:
    """Fields of several grain sizes in pixels, and strands: fields with a coarse and a fine direction."""

    def __init__(self, seed: int = 0, side: int = 640) -> None:
        random = np.random.default_rng(seed)
        self._side = side
        self._layers = {(grain, grain): self._smooth(random, grain, grain) for grain in (1, 2, 4, 8, 16, 32, 64)}
        self._layers |= {
            (long, fine): self._smooth(random, long, fine) for long, fine in ((6, 1), (40, 2), (60, 4), (90, 10))
        }
        fine, middle, coarse = (self._layers[each] for each in ((40, 2), (60, 4), (90, 10)))
        self.strands = (0.6 * fine + 0.5 * middle + 0.6 * coarse)[None]  # (1, side, side)

    def _smooth(self, random: np.random.Generator, height: int, width: int) -> Floats:
        """(side, side) of mean 0 and spread 1, without details finer than `height` rows and `width` columns."""
        rows, columns = max(4, self._side // height), max(4, self._side // width)
        coarse = random.standard_normal((rows, columns)).astype(np.float32)
        fine = np.asarray(Image.fromarray(coarse).resize((self._side, self._side), Image.Resampling.BICUBIC))
        standardised: Floats = (fine - fine.mean()) / fine.std()
        return standardised

    def cut(
        self, random: np.random.Generator, grain: int, height: int, width: int, *, long: int | None = None
    ) -> Floats:
        """(height, width) of a field, cut at a random place.

        Args:
            grain: grain size in pixels.
            long: grain size along strands; (long, grain) is (6, 1), (40, 2), (60, 4) or (90, 10).
        """
        layer = self._layers[long or grain, grain]
        row, column = random.integers(self._side - height + 1), random.integers(self._side - width + 1)
        return layer[row : row + height, column : column + width]

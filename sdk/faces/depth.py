"""More than 8 bits per channel: which part of the range a picture uses, and its 8 most significant bits.

Cameras and scanners store 10, 12 or 14 bits in numbers of 16. Nothing in the file says so, and the upper byte alone is
nearly black.
"""

import sys
from typing import Any

import numpy as np
from PIL import Image

from sdk.errors import ImageError

_DEPTHS = (8, 10, 12, 14, 16)
_BLOCK = 1 << 21  # numbers that are examined at once
_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}


def is_wide_grey(image: Image.Image) -> bool:
    """Whether a PIL image holds grey of 16 or 32 bits."""
    return image.mode.startswith("I")


def grey_depth(image: Image.Image) -> int:
    """Bits of the largest value of a wide grey picture: 8, 10, 12, 14 or 16.

    Raises:
        ImageError: values do not fit into 16 bits, so nothing says which are black and white.
    """
    rows = max(1, _BLOCK // image.width)
    blocks = (image.crop((0, top, image.width, min(top + rows, image.height))) for top in range(0, image.height, rows))
    ranges = [(int(values.min()), int(values.max())) for values in map(np.asarray, blocks)]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if low < 0 or high > 65535:
        raise ImageError(f"integers from {low} to {high} have no defined range; convert the image to 16 bits first")
    return _depth(high)


def grey_8_bits(image: Image.Image, depth: int, transparent: object = None) -> Image.Image:
    """The 8 most significant bits of wide grey of a depth; pixels of the value `transparent` become white."""
    values = np.asarray(image).astype(np.int32)
    grey = (values >> (depth - 8)).astype(np.uint8)
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)


def is_wide_colour(image: Image.Image) -> bool:
    """Whether colours of 16 bits per channel are about to be decoded, of which Pillow keeps the upper byte."""
    return not is_wide_grey(image) and ";16" in _raw_mode(image)


def select_lower_bytes(image: Any) -> None:
    """Let a picture that is opened and not decoded decode the lower bytes of its colours.

    If Pillow cannot do so, decoding it raises ValueError.
    """
    kind, box, offset, args = image.tile[0]
    mode, _, order = _raw_mode(image).partition(";")
    chosen = f"{mode};{_OTHER_BYTE.get(order, order)}"
    tile = kind, box, offset, chosen if isinstance(args, str) else (chosen, *args[1:])
    image.tile = [getattr(type(image.tile[0]), "_make", tuple)(tile)]


def colour_depth(upper: Image.Image) -> int:
    """Bits of the largest value of a picture of which `upper` holds the upper bytes."""
    bands = dict(zip(upper.getbands(), np.reshape(upper.getextrema(), (-1, 2)), strict=True))
    return _depth(int(max(high for band, (_, high) in bands.items() if band != "A")) << 8 | 255)


def colours_8_bits(upper: Image.Image, lower: Image.Image | None, depth: int) -> Image.Image:
    """The 8 most significant bits of colours of a depth; without lower bytes, these are taken for zero."""
    values = np.asarray(upper).astype(np.int32) << 8
    if lower is not None:
        values |= np.asarray(lower)
    return Image.frombytes(upper.mode, upper.size, (values >> (depth - 8)).clip(0, 255).astype(np.uint8).tobytes())


def _depth(highest: int) -> int:
    return next(depth for depth in _DEPTHS if highest < 1 << depth)


def _raw_mode(image: Any) -> str:
    """How the numbers of a picture are stored, in Pillow's words such as RGB;16B; empty if it is decoded."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else None
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""

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
_GREY_SCALES = {"L;2": 85, "L;4": 17}  # of grey of 2 and 4 bits, to 255
_PLANAR, _MIN_IS_WHITE = (284, 2), (262, 0)  # tags of TIFF and their values
_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}


def correct_depth(image: Any) -> None:
    """Correct two mistakes that Pillow makes about a picture that is opened and not decoded.

    The transparent grey of a PNG of 2 or 4 bits is not scaled as its pixels are. The planes of an uncompressed TIFF of
    16 bits are decoded as bytes.
    """
    transparent, scale = image.info.get("transparency"), _GREY_SCALES.get(_raw_mode(image))
    if scale and isinstance(transparent, int):
        image.info["transparency"] = transparent * scale
    if image.format == "TIFF" and _has_tag(image, _PLANAR) and image.tag_v2.get(258, (1,))[0] == 16:
        order = "B" if image.tag_v2.prefix == b"MM" else "L"
        image.tile = [_with_mode(tile, f"{_mode(tile)};16{order}") if tile[0] == "raw" else tile for tile in image.tile]


def is_wide_grey(image: Image.Image) -> bool:
    """Whether a PIL image holds grey of 16 or 32 bits."""
    return image.mode.startswith("I")


def is_negative(image: Any) -> bool:
    """Whether 0 is white in a picture of wide grey; Pillow turns only 8 bits round."""
    return bool(image.format == "TIFF" and _has_tag(image, _MIN_IS_WHITE))


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


def grey_8_bits(image: Image.Image, depth: int, transparent: object = None, negative: bool = False) -> Image.Image:
    """The 8 most significant bits of wide grey of a depth; pixels of the value `transparent` become white."""
    values = np.asarray(image).astype(np.int32)
    grey = (values >> (depth - 8)).astype(np.uint8) ^ np.uint8(255 * negative)
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)


def is_wide_colour(image: Image.Image) -> bool:
    """Whether colours of 16 bits per channel are about to be decoded, of which Pillow keeps the upper byte."""
    return not is_wide_grey(image) and ";16" in _raw_mode(image)


def select_lower_bytes(image: Any) -> None:
    """Let a picture that is opened and not decoded decode the lower bytes of its colours.

    Raises:
        ValueError: Pillow cannot do so. It may also notice this only when it decodes the picture.
    """
    if _raw_mode(image).startswith("RGBa") or (image.tile[0][0] == "libtiff" and _has_tag(image, _PLANAR)):
        raise ValueError("premultiplied colours and compressed planes have no lower bytes")
    tiles = []
    for tile in image.tile:
        mode, _, order = _mode(tile).partition(";")
        tiles.append(_with_mode(tile, f"{mode};{_OTHER_BYTE.get(order, order)}"))
    image.tile = tiles


def colour_depths(upper: Image.Image) -> tuple[int, int]:
    """Bits of the largest colour and of the largest alpha of a picture of which `upper` holds the upper bytes."""
    bands = dict(zip(upper.getbands(), np.reshape(upper.getextrema(), (-1, 2)), strict=True))
    _, alpha = bands.pop("A", (0, 255))
    return _depth(int(max(high for _, high in bands.values())) << 8 | 255), _depth(int(alpha) << 8 | 255)


def colours_8_bits(upper: Image.Image, lower: Image.Image | None, depths: tuple[int, int]) -> Image.Image:
    """The 8 most significant bits of colours and alpha of these depths; lower bytes that are missing count as 0."""
    values = np.asarray(upper).astype(np.int32) << 8
    if lower is not None:
        values |= np.asarray(lower)
    shifts = [depths[band == "A"] - 8 for band in upper.getbands()]
    return Image.frombytes(upper.mode, upper.size, (values >> shifts).clip(0, 255).astype(np.uint8).tobytes())


def _depth(highest: int) -> int:
    return next(depth for depth in _DEPTHS if highest < 1 << depth)


def _raw_mode(image: Any) -> str:
    """How the numbers of a picture are stored, in Pillow's words such as RGB;16B; empty if it is decoded."""
    tiles = getattr(image, "tile", None)
    return _mode(tiles[0]) if tiles else ""


def _mode(tile: Any) -> str:
    args = tile[3]
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _with_mode(tile: Any, mode: str) -> Any:
    kind, box, offset, args = tile
    changed = kind, box, offset, mode if isinstance(args, str) else (mode, *args[1:])
    return getattr(type(tile), "_make", tuple)(changed)


def _has_tag(image: Any, tag: tuple[int, int]) -> bool:
    """Whether a TIFF has a tag of a value."""
    tags = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(tag[0]) == tag[1]

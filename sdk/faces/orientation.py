"""How a camera was held: read the orientation of a picture and turn its pixels upright."""

import re
import struct

import numpy as np
from PIL import Image

from sdk.arrays import Pixels

_TAG, _SHORT = 0x0112, 3  # of EXIF and TIFF
_MIRRORED_COLUMNS, _MIRRORED_ROWS, _TRANSPOSED = {2, 3, 6, 7}, {3, 4, 7, 8}, {5, 6, 7, 8}


def orientation(image: Image.Image, *, search: bool = False) -> int:
    """The orientation of a picture, 1 to 8 as in EXIF; 1 if none can be read.

    Args:
        search: look for the tag in the bytes of the EXIF data, if Pillow does not find it: it stops at a damaged tag.
    """
    try:
        found = image.getexif().get(_TAG)
    except Exception:  # damaged EXIF data raises many types
        found, search = None, True
    if found is None and search:
        found = _search(image.info.get("exif"))
    found = _number(found)
    return found if 1 <= found <= 8 else 1


def turns(value: int) -> bool:
    """Whether an orientation exchanges width and height."""
    return value in _TRANSPOSED


def upright(pixels: Pixels, value: int) -> Pixels:
    """Turn and mirror (H, W, 3) pixels by an EXIF orientation."""
    if value in _TRANSPOSED:
        pixels = pixels.transpose(1, 0, 2)
    if value in _MIRRORED_ROWS:
        pixels = pixels[::-1]
    if value in _MIRRORED_COLUMNS:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _number(found: object) -> int:
    """The value of a tag that may be a byte, a text or several numbers, as some programs write it; 0 if it is none."""
    if isinstance(found, bytes | tuple) and found:
        found = found[0]
    if isinstance(found, str) and re.fullmatch(r"[1-8]\s*", found):
        return int(found)
    return found if isinstance(found, int) else 0


def _search(exif: object) -> int | None:
    """The orientation in the first directory of EXIF data; its other tags are not read."""
    if not isinstance(exif, bytes):
        return None
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for position in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, position)
            if (tag, kind) == (_TAG, _SHORT):
                return int(value)
    except struct.error:  # the data ends
        return None
    return None

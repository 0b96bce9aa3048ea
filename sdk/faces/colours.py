"""From a decoded PIL image to 8-bit sRGB: bit depth, transparency, colour profile, size."""

import io
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageCms

from sdk.arrays import Pixels
from sdk.errors import ImageError
from sdk.faces.depth import colour_depths, colours_8_bits, grey_8_bits, grey_depth, is_negative, is_wide_grey

_Area: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom in pixels
_Step: TypeAlias = Callable[[Image.Image], Image.Image]

_BLOCK_SIDE = 2048  # pixels; pictures are converted in blocks, so that copies in other modes stay small
_GREY_MODES = {"1", "L", "LA", "La"}
_ROUNDING = 2  # levels of 255 by which a profile may differ from sRGB and count as sRGB


def to_rgb(image: Image.Image, shrink: int = 1, *, wide: bool = False, lower: Image.Image | None = None) -> Pixels:
    """Convert a decoded picture of any mode, put transparency on white, and average squares of pixels.

    Args:
        shrink: side of the squares.
        wide: the picture has 16 bits per colour, and `image` holds the upper bytes.
        lower: the lower bytes of such a picture.

    Returns:
        (ceil(H / shrink), ceil(W / shrink), 3) uint8 sRGB.

    Raises:
        ImageError: the numbers of the picture have no defined range.
    """
    if image.mode == "F":
        raise ImageError("floating-point images have no defined range; convert the image to 8 bits per channel first")
    cut, convert = _cutter(image, wide, lower), _converter(image)
    width, height = image.size
    result = np.empty((-(-height // shrink), -(-width // shrink), 3), np.uint8)
    side = max(1, _BLOCK_SIDE // shrink) * shrink
    for top in range(0, height, side):
        for left in range(0, width, side):
            block = convert(cut((left, top, min(left + side, width), min(top + side, height))))
            if shrink > 1:
                block = block.reduce(shrink)
            y, x = top // shrink, left // shrink
            result[y : y + block.height, x : x + block.width] = np.asarray(block)
    return result


def _cutter(image: Image.Image, wide: bool, lower: Image.Image | None) -> Callable[[_Area], Image.Image]:
    """Cuts a block of 8 bits per channel."""
    if is_wide_grey(image):
        depth, transparent, negative = grey_depth(image), image.info.get("transparency"), is_negative(image)
        return lambda area: grey_8_bits(image.crop(area), depth, transparent, negative)
    if not wide:
        return image.crop
    depths, clear = colour_depths(image), image.info.get("transparency")

    def cut(area: _Area) -> Image.Image:
        block = image.crop(area)
        if min(depths) < 16:
            block = colours_8_bits(block, lower and lower.crop(area), depths)
        if isinstance(clear, tuple):  # a colour of 16 bits that is transparent
            block.info["transparency"] = tuple(min(value >> (depths[0] - 8), 255) for value in clear)
        return block

    return cut


def _converter(image: Image.Image) -> _Step:
    """Converts a block to RGB."""
    transform = _srgb_transform(image) or (lambda block: block if block.mode == "RGB" else block.convert("RGB"))

    # Windows leaves alpha at 0
    opaque = image.format == "BMP" and image.mode == "RGBA" and not any(image.getchannel("A").getextrema())

    def convert(block: Image.Image) -> Image.Image:
        if opaque:
            block = block.convert("RGB")
        if block.has_transparency_data:
            block = block.convert("RGBA")
            block = Image.alpha_composite(Image.new("RGBA", block.size, "white"), block)
        return transform(block)

    return convert


def _srgb_transform(image: Image.Image) -> _Step | None:
    """Applies the colour profile of a picture; None if it has none, a damaged one, one of another mode, or sRGB."""
    data: bytes = image.info.get("icc_profile") or b""
    if not data and image.mode != "LAB":
        return None
    try:
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB") if image.mode == "LAB" else io.BytesIO(data))
        mode = _profile_mode(source.profile.xcolor_space.strip().upper(), image)
        if mode is None:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode == "RGB" and _keeps_colours(transform):
            return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError):
        return None

    def convert(block: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(block if block.mode == mode else block.convert(mode), transform)
        assert converted is not None  # it is where a new image is asked for
        return converted

    return convert


def _profile_mode(space: str, image: Image.Image) -> str | None:
    """The PIL mode in which a profile of a colour space applies to a picture, if it does."""
    if space == "GRAY" and (image.mode in _GREY_MODES or is_wide_grey(image)):
        return "L"
    if space == image.mode and space in ("CMYK", "LAB"):
        return space
    return "RGB" if space == "RGB" and image.mode not in ("CMYK", "LAB") else None


def _keeps_colours(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a transform of RGB leaves a cube of colours as they are, up to rounding."""
    levels = np.linspace(0, 255, 8).astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(8, 64, 3)
    converted = ImageCms.applyTransform(Image.fromarray(cube), transform)
    return bool(np.abs(np.asarray(converted, np.int32) - cube).max() <= _ROUNDING)

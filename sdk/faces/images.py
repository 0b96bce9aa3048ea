"""Load pictures from files, bytes, PIL images or arrays as upright (H, W, 3) uint8 RGB arrays."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from sdk.arrays import Pixels
from sdk.errors import ImageError

Color: TypeAlias = Literal["rgb", "bgr"]
ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]"
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})  # lower case
PICTURE_SUFFIXES = PHOTO_SUFFIXES | {".gif"}

MAX_PIXELS = 100_000_000
_16_BIT_MODES = {"I", "I;16", "I;16B", "I;16L", "I;16N"}  # PIL modes of 16-bit grey


def load_image(
    source: ImageSource, *, color: Literal["rgb", "bgr"] | None = None, max_pixels: int = MAX_PIXELS
) -> Pixels:
    """Read a picture, turn it upright by its EXIF orientation, and put transparency on white.

    Args:
        source: a path, the bytes of a file, a PIL image, or an array: (H, W, 3) uint8 with `color`, or (H, W)
            uint8 grey. The first frame of an animation is read.
        color: channel order of a three-channel array, "rgb" or "bgr"; None for every other source.
        max_pixels: limit on width x height, checked before decoding.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ImageError: the picture cannot be used.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, color, max_pixels)
    if color is not None:
        raise ImageError("color= is for arrays only: files and PIL images define their channel order; leave it out")
    if isinstance(source, Image.Image):
        _check_size(source.size, max_pixels, "the PIL image")
        with _decoding("the PIL image"):
            return _to_rgb(source)
    name, file = _open(source)
    with _decoding(name), Image.open(file) as image:
        _check_size(image.size, max_pixels, name)
        return _to_rgb(image)


def source_name(source: ImageSource) -> str:
    """The path of a source, or "PIL image", "array" or "bytes"."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, Image.Image):
        return "PIL image"
    return "array" if isinstance(source, np.ndarray) else "bytes"


def _open(source: "str | os.PathLike[str] | bytes") -> tuple[str, "str | io.BytesIO"]:
    """A name for messages, and the path or file for PIL."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not source:
            raise ImageError("the picture has 0 bytes: expected the content of an image file")
        return "the bytes", io.BytesIO(source)
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(f"expected a path, bytes, a PIL image or a numpy array; found {type(source).__name__}")
    path = os.fspath(source)
    if path.startswith(("http://", "https://")):
        raise ImageError(f"{path}: pictures are not downloaded; download it and pass the path or the bytes")
    if not os.path.isfile(path):
        reason = "is a folder" if os.path.isdir(path) else "does not exist"
        raise ImageError(f"{path} {reason}: expected the path of an image file")
    if os.path.getsize(path) == 0:
        raise ImageError(f"{path} has 0 bytes: expected an image file")
    return path, path


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn errors of Pillow into ImageError. Its size warning is ignored, because `_check_size` is stricter."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: not an image that Pillow can read; expected JPEG, PNG, WebP, TIFF, BMP or GIF"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too large to decode safely ({error})") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"{name}: the image is damaged or truncated ({error})") from None


def _check_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} is {width * height / 1e6:.0f} megapixels, the limit is "
            f"{max_pixels / 1e6:.0f}; scale it down or raise max_pixels"
        )
    if width * height == 0:
        raise ImageError(f"{name}: {width} x {height} has no pixels")


def _to_rgb(image: Image.Image) -> Pixels:
    image = ImageOps.exif_transpose(image)
    if image.mode in _16_BIT_MODES:
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ImageError("floating-point images have no defined range; convert the image to 8 bits per channel first")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _from_array(array: npt.NDArray[Any], color: str | None, max_pixels: int) -> Pixels:
    if array.dtype != np.uint8:
        raise ImageError(f"expected a uint8 array with values 0..255, found {array.dtype}; convert it first")
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    elif array.ndim != 3 or array.shape[2] != 3:
        raise ImageError(f"expected an array of shape (H, W, 3) or (H, W), found {array.shape}")
    elif color not in ("rgb", "bgr"):
        raise ImageError(f"a (H, W, 3) array needs color='rgb' or color='bgr' (OpenCV), found {color!r}")
    _check_size((array.shape[1], array.shape[0]), max_pixels, "the array")
    return np.ascontiguousarray(array[:, :, ::-1] if color == "bgr" else array)

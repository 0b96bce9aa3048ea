"""Load pictures from paths, open files, bytes, PIL images or arrays as upright (H, W, 3) uint8 RGB arrays."""

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from sdk.arrays import Pixels
from sdk.errors import ImageError
from sdk.faces.colours import to_rgb
from sdk.faces.depth import colour_depths, correct_depth, is_wide_colour, select_lower_bytes
from sdk.faces.formats import READ, check_cost, check_sums, is_readable, open_picture
from sdk.faces.orientation import orientation, turns, upright
from sdk.printable import one_line
from sdk.ranges import COUNT

Color: TypeAlias = Literal["rgb", "bgr"]
FileSource: TypeAlias = "str | os.PathLike[str] | bytes | IO[bytes]"
ImageSource: TypeAlias = "FileSource | Image.Image | npt.NDArray[Any]"

MAX_PIXELS = 100_000_000
MAX_JPEG_PIXELS = 200_000_000  # phones make photographs of 108 and 200 megapixels, always JPEG
KEPT_PIXELS, KEPT_SIDE = 1 << 25, 8192  # larger pictures are halved until they fit
UNNAMED = ("PIL image", "array", "bytes")  # what stands for the path of a source without one
_MESSAGE = 300  # characters of a decoder's message that are shown


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: (H, W, 3) uint8 sRGB, upright.
        size: width and height of the picture before it was shrunk, upright.
        shrink: pixels of the picture per pixel of `pixels`: 1, 2, 4...
    """

    pixels: Pixels
    size: tuple[int, int]
    shrink: int = 1


def load_image(source: ImageSource, *, color: Color | None = None, max_pixels: int | None = None) -> Pixels:
    """The pixels of `load_picture`."""
    return load_picture(source, color=color, max_pixels=max_pixels).pixels


def load_again(source: ImageSource, size: tuple[int, int]) -> Pixels:
    """The pixels of a picture that was read before; an array with three channels is RGB.

    Args:
        size: width and height that it had then; so many pixels are allowed.
    """
    color: Color | None = "rgb" if isinstance(source, np.ndarray) and source.ndim == 3 else None
    known = size[0] * size[1]
    return load_image(source, color=color, max_pixels=known if known > MAX_PIXELS else None)


def load_picture(source: ImageSource, *, color: Color | None = None, max_pixels: int | None = None) -> Picture:
    """Read a picture, turn it upright by its EXIF orientation, convert it to sRGB, and put transparency on white.

    Pictures of more than 33 megapixels, or 8192 pixels in one direction, are read at a half, a quarter... of their
    size: the networks see less of a face, and full size would take gigabytes.

    Args:
        source: a path, the bytes of a file, a file open in binary mode (read from its position to its end), a PIL
            image, or an array: (H, W, 3) uint8 with `color`, or (H, W) uint8 grey. The first frame of an animation is
            read.
        color: channel order of a three-channel array, "rgb" or "bgr"; None for every other source.
        max_pixels: limit on width x height, checked before decoding; None: 200 million for JPEG, PIL images and
            arrays, 100 million for other files. More than 100 million allow decoding more memory and time, too.

    Raises:
        ImageError: the picture cannot be used.
    """
    COUNT.check("max_pixels", max_pixels, ImageError, optional=True)
    if isinstance(source, np.ndarray):
        return _from_array(source, color, max_pixels)
    if color is not None:
        raise ImageError("color= is for arrays only: files and PIL images define their channel order; leave it out")
    if isinstance(source, Image.Image):
        return _from_pil(source, max_pixels)
    with _opened(source) as (image, file, name):
        return _decode(image, file, name, max_pixels)


def read_size(source: FileSource) -> tuple[int, int]:
    """Width and height of a picture file as stored, without decoding it.

    Raises:
        ImageError: it is no picture that `load_image` would try to decode.
    """
    with _opened(source) as (image, file, name):
        _check_size(image.size, None, name, image.format)
        check_cost(image, file, shrink_of(image.size), name, None)
        return image.size


def shrink_of(size: tuple[int, int]) -> int:
    """The factor at which a picture of a size is read: a power of 2."""
    shrink = 1
    while size[0] * size[1] > KEPT_PIXELS * shrink**2 or max(size) > KEPT_SIDE * shrink:
        shrink *= 2
    return shrink


def source_name(source: ImageSource) -> str:
    """The path of a source or the name of an open file, or "PIL image", "array" or "bytes"."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(name := getattr(source, "name", None), str):
        return name
    if isinstance(source, Image.Image):
        return "PIL image"
    return "array" if isinstance(source, np.ndarray) else "bytes"


@contextmanager
def _opened(source: FileSource) -> Iterator[tuple[Image.Image, IO[bytes], str]]:
    """Open a picture file without decoding it; errors of the block are ImageErrors."""
    name, file = _open(source)
    with file, _decoding(name), open_picture(file, name) as image:
        yield image, file, name


def _open(source: FileSource) -> tuple[str, IO[bytes]]:
    """A name for messages, and the open file. Pillow never sees a path: it would map the file into memory."""
    if hasattr(source, "read"):
        return source_name(source), io.BytesIO(_rest(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not source:
            raise ImageError("the picture has 0 bytes: expected the content of an image file")
        return "the bytes", io.BytesIO(source)
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(
            f"expected a path, bytes, an open file, a PIL image or a numpy array; found {type(source).__name__}"
        )
    path = os.fspath(source)
    if path.startswith(("http://", "https://")):
        raise ImageError(f"{path}: pictures are not downloaded; download it and pass the path or the bytes")
    try:
        found = os.stat(path)
        if stat.S_ISREG(found.st_mode) and found.st_size:
            return path, open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{path} does not exist: expected the path of an image file") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be opened ({_one_line(error)}): expected the path of an image file") from None
    if stat.S_ISREG(found.st_mode):
        raise ImageError(f"{path} has 0 bytes: expected an image file")
    if stat.S_ISDIR(found.st_mode):
        raise ImageError(f"{path} is a folder: expected the path of an image file; analyze_batch takes folders")
    raise ImageError(f"{path} is no regular file: expected the path of an image file")


def _rest(file: Any) -> bytes:
    """The content of an open file from its position on."""
    expected = f"{source_name(file)}: expected a file that is open in binary mode, as by open(path, 'rb')"
    try:
        content = file.read()
    except (OSError, ValueError) as error:
        raise ImageError(f"{expected}; it cannot be read ({_one_line(error)})") from None
    if not isinstance(content, bytes):
        raise ImageError(f"{expected}; its read() gives {type(content).__name__}")
    if not content:
        raise ImageError(
            f"{source_name(file)}: the open file has nothing left to read: it is empty, or it was read before, and "
            "seek(0) is missing"
        )
    return content


class _Quiet:
    """Ignores warnings while any thread decodes. `warnings.catch_warnings` alone mixes up the filters of threads."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")
            self._users += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._before.__exit__(None, None, None)


_quiet = _Quiet()


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn every error of a decoder into ImageError."""
    try:
        with _quiet:
            yield
    except ImageError as error:
        raise error if str(error).startswith(name) else ImageError(f"{name}: {error}") from None
    except MemoryError:
        raise ImageError(f"{name}: there is not enough memory to decode it; scale it down") from None
    except Image.DecompressionBombError as error:  # a limit of Pillow's own, in some formats
        raise ImageError(
            f"{name}: it has more pixels than Pillow decodes ({_one_line(error)}); scale it down"
        ) from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: the image is damaged or truncated (its header cannot be read), or of a kind of its format that "
            "is not decoded here; save it as JPEG or PNG"
        ) from None
    except Exception as error:  # Pillow's decoders raise a dozen types: SyntaxError, struct.error, RuntimeError...
        raise ImageError(f"{name}: the image is damaged or truncated ({_one_line(error)})") from None


def _one_line(error: Exception) -> str:
    return one_line(error)[:_MESSAGE] or type(error).__name__


def _check_size(size: tuple[int, int], max_pixels: int | None, name: str, kind: str | None = "JPEG") -> None:
    width, height = size
    limit = max_pixels or (MAX_JPEG_PIXELS if kind == "JPEG" else MAX_PIXELS)
    if width * height > limit:
        raise ImageError(
            f"{name}: {width} x {height} is {width * height / 1e6:.6g} megapixels, the limit is {limit / 1e6:.6g}; "
            f"scale it down, or allow it with max_pixels={width * height} (--max-pixels {width * height})"
        )
    if width * height == 0:
        raise ImageError(f"{name}: {width} x {height} has no pixels")


def _decode(image: Image.Image, file: IO[bytes], name: str, max_pixels: int | None) -> Picture:
    """Decode a file; a large JPEG is reduced by its decoder, other formats block by block."""
    _check_size(image.size, max_pixels, name, image.format)
    size, shrink = image.size, shrink_of(image.size)
    check_cost(image, file, shrink, name, max_pixels)
    check_sums(image, file, name)
    if image.format == "JPEG" and shrink > 1:
        image.draft(None, (max(1, size[0] // shrink), max(1, size[1] // shrink)))
    drafted = round(max(size) / max(image.size))
    wide = is_wide_colour(image)
    image.load()
    if drafted == 1:
        size, shrink = image.size, shrink_of(image.size)  # some decoders turn the picture or correct its size
    lower = _lower_bytes(file, name) if wide and shrink == 1 and min(colour_depths(image)) < 16 else None
    turn = orientation(image, search=True)
    pixels = upright(to_rgb(image, shrink // drafted, wide=wide, lower=lower), turn)
    return Picture(pixels, size[::-1] if turns(turn) else size, shrink)


def _lower_bytes(file: IO[bytes], name: str) -> Image.Image | None:
    """Decode the lower bytes of colours of 16 bits, where Pillow can do that."""
    file.seek(0)
    image = open_picture(file, name)
    try:
        select_lower_bytes(image)
        image.load()
    except ValueError:
        return None
    return image


def _from_pil(image: Image.Image, max_pixels: int | None) -> Picture:
    name = "the PIL image"
    if not is_readable(image):
        raise ImageError(f"{name} is {image.format}, which is not decoded here; call its load() first, or use {READ}")
    _check_size(image.size, max_pixels, name)
    with _decoding(name):
        correct_depth(image)
        wide = is_wide_colour(image)
        image.load()
        turn, shrink = orientation(image), shrink_of(image.size)
        pixels = upright(to_rgb(image, shrink, wide=wide), turn)
        return Picture(pixels, image.size[::-1] if turns(turn) else image.size, shrink)


def _from_array(array: npt.NDArray[Any], color: str | None, max_pixels: int | None) -> Picture:
    if array.dtype != np.uint8:
        raise ImageError(f"expected a uint8 array with values 0..255, found {array.dtype}; convert it first")
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    elif array.ndim != 3 or array.shape[2] != 3:
        raise ImageError(f"expected an array of shape (H, W, 3) or (H, W), found {array.shape}")
    elif color not in ("rgb", "bgr"):
        raise ImageError(f"a (H, W, 3) array needs color='rgb' or color='bgr' (OpenCV), found {color!r}")
    size = (array.shape[1], array.shape[0])
    _check_size(size, max_pixels, "the array")
    pixels, shrink = np.ascontiguousarray(array[:, :, ::-1] if color == "bgr" else array), shrink_of(size)
    if shrink > 1:
        with _decoding("the array"):
            pixels = to_rgb(Image.fromarray(pixels), shrink)
    return Picture(pixels, size, shrink)

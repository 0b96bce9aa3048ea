"""The picture formats that are read, their file names, and how a file is opened without decoding it.

Pillow knows fifty formats, and one of them starts a program: EPS runs Ghostscript. Only formats of photographs are
read here, whatever a file is called.
"""

import io
import re
import zlib
from math import ceil, inf
from typing import IO, Any, NamedTuple

from PIL import Image, JpegImagePlugin

from sdk.errors import ImageError
from sdk.faces.depth import correct_depth
from sdk.system_memory import available_memory


class _Format(NamedTuple):
    """A format by Pillow's name: first bytes of a file, endings of file names, bytes per pixel while it is decoded."""

    signature: bytes
    suffixes: tuple[str, ...]
    bytes_per_pixel: int


# Bytes per pixel as measured with Pillow 13 and pillow-heif 1.8: the picture, and what the codec needs for itself.
_FORMATS = {
    "JPEG": _Format(rb"\xff\xd8\xff", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), 4),
    "PNG": _Format(rb"\x89PNG\r\n\x1a\n", (".png", ".apng"), 4),
    "WEBP": _Format(rb"RIFF....WEBP", (".webp",), 16),
    "GIF": _Format(rb"GIF8[79]a", (".gif",), 4),
    "TIFF": _Format(rb"(II|MM)(\0[*+]|[*+]\0)", (".tif", ".tiff"), 4),
    "BMP": _Format(rb"BM", (".bmp",), 4),
    "AVIF": _Format(rb"....ftyp(....)*avi[fs]", (".avif",), 16),
    "HEIF": _Format(rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", (".heic", ".heif", ".hif"), 12),
}
READ = "JPEG, MPO, PNG, WebP, GIF, TIFF, BMP, AVIF or HEIF"
SUFFIXES = frozenset(suffix for kind in _FORMATS.values() for suffix in kind.suffixes)  # lower case
# Pictures of other formats: a folder with them says so.
UNREAD_SUFFIXES = frozenset(
    {".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".jxr", ".psd", ".eps", ".tga", ".ppm", ".pgm", ".pnm", ".exr", ".dds"}
    | {".blp", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"}  # cameras
)

_HEADER = 64  # bytes that identify a format
_VIDEO = re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |FLV\x01|\0\0\x01\xba|OggS", re.DOTALL)
# Of an AVIF file: the entry of EXIF data in its table of items
_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)
_MEMORY = 640_000_000  # bytes that decoding may take for a picture of up to so many pixels:
_USUAL_PIXELS = 100_000_000
# Every scan of a progressive JPEG visits all pixels: a file of 60 KB with thousands of scans would take minutes.
_MAX_SCANNED = 1_500_000_000  # pixels times scans; a photograph has about 10 scans


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """The first picture of a JPEG or MPO file; its EXIF data is not needed to open it and may be damaged."""

    def _read_dpi_from_exif(self) -> None:
        pass


def open_picture(file: IO[bytes], name: str) -> Image.Image:
    """Open a picture and read its header.

    Args:
        file: a binary file at its start; it stays open while the picture is decoded.
        name: of the picture, for messages.

    Raises:
        ImageError: the format is not read here.
        Exception: the header is damaged; the type depends on the decoder.
    """
    header = file.read(_HEADER)
    file.seek(0)
    kind = next((kind for kind, known in _FORMATS.items() if re.match(known.signature, header, re.DOTALL)), None)
    if kind is None:
        video = "; for a video use `emola video` or analyze_video" if _VIDEO.match(header) else ""
        raise ImageError(f"{name}: not an image that Pillow can read safely; expected {READ}{video}")
    if kind == "JPEG":
        return _Jpeg(file)
    _require_decoder(kind, name)
    decoder, _ = Image.OPEN[kind]  # Image.open has a limit of its own, and calls a larger picture damaged
    image = decoder(_without_exif(file) if kind == "AVIF" else file, "")
    correct_depth(image)
    return image


def _without_exif(file: IO[bytes]) -> IO[bytes]:
    """An AVIF file whose EXIF data has another name: it has no effect, but Pillow stops where it is damaged."""
    return io.BytesIO(_EXIF_ITEM.sub(rb"\1skip", file.read()))


def is_readable(image: Image.Image) -> bool:
    """Whether a PIL image is decoded already, or of a format that is read here."""
    return not getattr(image, "tile", None) or image.format == "MPO" or image.format in _FORMATS


def _require_decoder(kind: str, name: str) -> None:
    """Make sure that Pillow has a decoder; HEIF needs a package that registers one."""
    if kind not in Image.OPEN:
        Image.init()
    if kind not in Image.OPEN and kind == "HEIF":
        _register_heif()
    if kind not in Image.OPEN:
        remedy = "pip install 'emola-edge[heif]'" if kind == "HEIF" else "install Pillow 11.3 or later"
        raise ImageError(f"{name}: no decoder of {kind} is installed; {remedy}, or convert the picture to JPEG")


def _register_heif() -> None:
    try:
        import pi_heif
    except ImportError:
        return
    pi_heif.register_heif_opener()


def check_cost(image: Image.Image, file: IO[bytes], shrink: int, name: str, max_pixels: int | None) -> None:
    """Refuse a picture whose decoding would take too much memory or time for its format.

    Args:
        image: as `open_picture` opened it.
        file: the content of the picture; its position is kept.
        shrink: the factor at which a JPEG is going to be decoded.
        max_pixels: what the caller allows; above the usual number, memory and time grow with it.

    Raises:
        ImageError: it would.
    """
    growth = max(1.0, (max_pixels or 0) / _USUAL_PIXELS)
    pixels = image.width * image.height
    needed = pixels * _FORMATS[image.format or "JPEG"].bytes_per_pixel
    if image.format == "TIFF":
        needed += _strip_bytes(image)
    if image.format == "JPEG":
        scans, stored = _scans(file), _coefficients(image)
        needed = needed // shrink**2 + (2 * stored if scans > 1 else 0)
        if pixels * scans > growth * _MAX_SCANNED:
            raise ImageError(f"{name}: a JPEG of {scans} scans takes too long to decode; save it as baseline JPEG")
    allowed, left = growth * _MEMORY, available_memory() if growth > 1 else inf
    if needed > min(allowed, left):
        more = f", or allow it with max_pixels={ceil(needed / _MEMORY * _USUAL_PIXELS)}" if allowed < left else ""
        raise ImageError(
            f"{name}: {image.width} x {image.height} as {image.format} needs about {needed / 1e6:.0f} MB to decode, "
            f"the limit is {min(allowed, left) / 1e6:.0f}; scale it down, save it as baseline JPEG{more}"
        )


def check_sums(image: Image.Image, file: IO[bytes], name: str) -> None:
    """Refuse a PNG whose pixels are damaged: it stores their checksums, which Pillow does not compare.

    Args:
        image, file, name: as in `check_cost`.

    Raises:
        ImageError: a checksum of a part that is needed is wrong.
    """
    if image.format != "PNG":
        return
    position, kind = file.tell(), b""
    file.seek(8)
    while kind != b"IEND" and len(header := file.read(8)) == 8:
        left, kind = int.from_bytes(header[:4], "big"), header[4:]
        if kind[0] & 32:  # a part that is not needed has a small letter
            file.seek(left + 4, io.SEEK_CUR)
            continue
        found = zlib.crc32(kind)
        while left and (block := file.read(min(left, 1 << 20))):
            found, left = zlib.crc32(block, found), left - len(block)
        if len(stored := file.read(4)) == 4 and int.from_bytes(stored, "big") != found:
            raise ImageError(f"{name}: the image is damaged (a checksum of its {kind.decode('latin-1')} is wrong)")
    file.seek(position)


def _scans(file: IO[bytes]) -> int:
    """Number of scans of a JPEG; in pixel data the byte FF is always followed by 00, so the marker is unique."""
    position, count, last = file.tell(), 0, b""
    file.seek(0)
    while block := file.read(1 << 20):
        count += (last + block).count(b"\xff\xda")
        last = block[-1:]
    file.seek(position)
    return count


def _coefficients(image: Any) -> int:
    """Number of the values that libjpeg keeps of a JPEG of several scans."""
    layers = [(across, down) for _, across, down, _ in image.layer]
    if not layers:
        return 0
    most = max(across for across, _ in layers) * max(down for _, down in layers)
    return int(image.width * image.height * sum(across * down for across, down in layers) / max(most, 1))


def _strip_bytes(image: Any) -> int:
    """Bytes of one strip or tile of a TIFF, which libtiff decodes as a whole."""
    tags, bits = image.tag_v2, image.tag_v2.get(258, (1,))
    across, down = tags.get(322, image.width), tags.get(323, min(tags.get(278, image.height), image.height))
    return int(across * down * max(sum(bits), bits[0] * tags.get(277, 1)) / 8)

"""Valid pictures of many kinds, from which damaged ones are made."""

import io
import struct
import zlib
from functools import cache
from random import Random
from typing import Any

import numpy as np
from mutate import damaged_bytes
from PIL import Image, features

_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION, _RESOLUTION = 0x0112, 0x011A


@cache
def picture_files() -> tuple[bytes, ...]:
    """Small pictures in the formats that are read, and in those that are not."""
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    grey, palette = colour.convert("L"), colour.quantize(16)
    exif = Image.Exif()
    exif[_ORIENTATION], exif[_RESOLUTION] = 6, 72.0
    wide = Image.fromarray(np.arange(24 * 32, dtype=np.uint16).reshape(24, 32))
    files = [
        *(_file(colour, "JPEG", **o) for o in ({}, {"exif": exif}, {"progressive": True}, {"icc_profile": b"x" * 200})),
        *(_file(i, "JPEG") for i in (grey, colour.convert("CMYK"))),
        *(
            _file(i, "PNG")
            for i in (colour, grey, wide, colour.convert("RGBA"), colour.convert("LA"), grey.convert("1"))
        ),
        _file(palette, "PNG", transparency=3),
        _file(colour, "PNG", exif=exif, pnginfo=_text()),
        *(_file(i, "TIFF", compression=c) for i in (colour, wide) for c in (None, "tiff_lzw", "tiff_adobe_deflate")),
        _file(grey.convert("F"), "TIFF"),
        _file(colour, "TIFF", compression="jpeg"),
        *(_file(colour, "WEBP", lossless=lossless) for lossless in (False, True)),
        *(_file(i, "GIF", save_all=True, append_images=[palette, grey]) for i in (palette, colour)),
        *(_file(i, "BMP") for i in (colour, palette)),
        *(
            _file(colour, name)
            for name in ("PPM", "TGA", "PCX", "SGI", "ICO", "DDS", "EPS", "MPO", "ICNS", "MSP", "IM")
        ),
        _file(palette, "BLP"),
        *(_file(colour, "AVIF") for _ in range(int(features.check("avif")))),
        *(_file(colour, "JPEG2000") for _ in range(int(features.check("jpg_2000")))),
        b"P3 2 2 255 0 0 0 1 1 1 2 2 2 3 3 3",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n%%EOF",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ]
    return tuple(file for file in files if file)


def _file(image: Image.Image, name: str, **options: Any) -> bytes:
    """The bytes of a file; none where this Pillow cannot write it."""
    stream = io.BytesIO()
    try:
        (image.convert("1") if name == "MSP" else image).save(stream, name, **options)
    except (OSError, KeyError, ValueError):
        return b""
    return stream.getvalue()


def _text() -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Comment", "words " * 50, zip=True)
    return info


def damaged_picture(draw: Random) -> bytes:
    """A damaged picture; the checksums of a PNG are often made right again, so that its content is read."""
    data = damaged_bytes(draw.choice(picture_files()), draw)
    return _with_checksums(data) if data.startswith(_PNG) and draw.random() < 0.7 else data


def _with_checksums(data: bytes) -> bytes:
    parts, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        length = min(int.from_bytes(data[at : at + 4], "big"), len(data) - at - 12)
        parts.append(_chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return b"".join(parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def large_picture(draw: Random) -> bytes:
    """A small PNG file with 1 to 400 million pixels of any type."""
    bits, kind, channels = draw.choice(
        ((1, 0, 1), (8, 0, 1), (16, 0, 1), (1, 3, 1), (4, 3, 1), (8, 3, 1), (8, 2, 3), (16, 2, 3), (8, 4, 2), (8, 6, 4))
    )
    pixels = 10 ** draw.uniform(6, 8.6)
    width = int(10 ** draw.uniform(1, 5))
    height = max(1, int(pixels / width))
    row = bytes(1 + -(-width * bits * channels // 8))
    packer, packed = zlib.compressobj(1), []
    many = row * max(1, 10**6 // len(row))
    for _ in range(len(row) * height // len(many)):
        packed.append(packer.compress(many))
    packed += [packer.compress(row * (len(row) * height % len(many) // len(row))), packer.flush()]
    extra = _chunk(b"PLTE", bytes(6)) + (_chunk(b"tRNS", b"\x80") if draw.random() < 0.5 else b"") if kind == 3 else b""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return _PNG + header + extra + _chunk(b"IDAT", b"".join(packed)) + _chunk(b"IEND", b"")

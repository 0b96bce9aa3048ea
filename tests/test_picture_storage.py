"""Unusual ways to store a picture, of which Pillow reads several wrongly: planes, strips, negatives, alpha, EXIF."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from test_picture_colours import encoded, exif, png16

from sdk.errors import ImageError
from sdk.faces.images import load_image

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (24, 31, 3)).astype(np.uint8)
COLOURS[0, 0] = 255
GREY = COLOURS[..., 0]


def deep(values, bits):
    """Values of 8 bits in the lowest `bits` bits of 16."""
    return values.astype(np.uint16) << (bits - 8) | values >> (16 - bits)


def tiff(values, **options) -> bytes:
    tifffile, buffer = pytest.importorskip("tifffile"), io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("strips", [{}, {"rowsperstrip": 5}, {"tile": (16, 16)}], ids=repr)
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("bits", [12, 16])
def test_strips_tiles_and_planes_of_a_tiff(bits, planes, strips, order):
    """Pillow decodes uncompressed planes of 16 bits as bytes, which gives noise."""
    values = deep(COLOURS, bits)
    values = np.moveaxis(values, -1, 0) if planes == "separate" else values
    content = tiff(values, photometric="rgb", planarconfig=planes, byteorder=order, **strips)
    np.testing.assert_array_equal(load_image(content), COLOURS)


@pytest.mark.parametrize(("bits", "error"), [(12, 15), (16, 0)])
def test_compressed_planes_keep_their_upper_bytes(bits, error):
    values = np.moveaxis(deep(COLOURS, bits), -1, 0)
    pixels = load_image(tiff(values, photometric="rgb", planarconfig="separate", compression="zlib"))
    assert np.abs(pixels.astype(int) - COLOURS).max() <= error


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_in_which_0_is_white(bits, compression):
    """Pillow turns 8 bits round and leaves 16 as they are: every face would be a negative."""
    values = (1 << bits) - 1 - (deep(GREY, bits) if bits > 8 else GREY.astype(np.uint16))
    values = values.astype(np.uint8 if bits == 8 else np.uint16)
    pixels = load_image(tiff(values, photometric="miniswhite", compression=compression))
    np.testing.assert_array_equal(pixels, np.repeat(GREY[..., None], 3, 2))


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("alpha", ["opaque in 16 bits", "half in 16 bits", "opaque in the bits of the colours"])
def test_colours_and_alpha_of_different_depths(bits, alpha):
    values = deep(COLOURS, bits) if bits > 8 else COLOURS.astype(np.uint16)
    channel = np.full(GREY.shape, 65535 if "16" in alpha else (1 << bits) - 1, np.uint16)
    share = np.ones(GREY.shape)
    if alpha.startswith("half"):
        channel[:, 9:], share[:, 9:] = 32768, 0.5
    expected = COLOURS * share[..., None] + 255 * (1 - share[..., None])
    pixels = load_image(png16(np.dstack([values, channel])))
    assert np.abs(pixels - expected).max() <= 2


def test_premultiplied_colours_of_12_bits():
    """Pillow divides the upper bytes by alpha, of which 4 bits are left."""
    values = np.dstack([deep(COLOURS, 12), np.full(GREY.shape, 4095, np.uint16)])
    pixels = load_image(tiff(values, photometric="rgb", extrasamples=["assocalpha"]))
    assert np.abs(pixels.astype(int) - COLOURS).max() <= 17


def png(values, bits, colour_type, transparent) -> bytes:
    """A PNG of 1 to 8 bits per pixel with one transparent value."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :]) for row in values]
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", values.shape[1], len(values), bits, colour_type, 0, 0, 0))
        + chunk(b"tRNS", transparent)
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("bits", "transparent"), [(1, 0), (1, 1), (2, 1), (2, 2), (4, 5), (4, 10), (8, 77)])
@pytest.mark.parametrize("door", ["bytes", "PIL"])
def test_transparent_grey_of_few_bits(bits, transparent, door):
    """Pillow scales the pixels of 2 and 4 bits to 8 and leaves the transparent value as it is."""
    values = GREY >> (8 - bits)
    values[0, :5] = transparent
    content = png(values, bits, 0, struct.pack(">H", transparent))
    expected = values.astype(int) * (255 // ((1 << bits) - 1))
    expected[values == transparent] = 255
    pixels = load_image(content if door == "bytes" else Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, 2))


@pytest.mark.parametrize("bits", [12, 16])
def test_a_transparent_colour_of_16_bits(bits):
    values = deep(COLOURS, bits)
    values[3:9, 4:20] = colour = [0x0FA2, 0x0124, 0x0356] if bits == 12 else [0xFA12, 0x1434, 0x5656]
    values[20, 20] = (1 << bits) - 1
    content = png16(values)
    table = b"tRNS" + struct.pack(">HHH", *colour)
    content = content[:33] + struct.pack(">I", 6) + table + struct.pack(">I", zlib.crc32(table)) + content[33:]
    expected = (values >> (bits - 8)).astype(np.uint8)
    expected[3:9, 4:20] = 255
    np.testing.assert_array_equal(load_image(content), expected)


def bmp(values) -> bytes:
    """A BMP with an alpha channel, as Windows writes it to the clipboard."""
    height, width, _ = values.shape
    pixels = values[::-1, :, [2, 1, 0, 3]].tobytes()
    header = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    header += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = header.ljust(124, b"\0")
    return b"BM" + struct.pack("<IHHI", 138 + len(pixels), 0, 0, 138) + header + pixels


def test_a_bmp_whose_alpha_was_never_written_is_not_white():
    """Windows leaves alpha at 0; browsers show such a picture as it is."""
    alpha = np.zeros(GREY.shape, np.uint8)
    np.testing.assert_array_equal(load_image(bmp(np.dstack([COLOURS, alpha]))), COLOURS)
    alpha[:, 9:] = 255
    expected = np.where(alpha[..., None], COLOURS, 255)
    np.testing.assert_array_equal(load_image(bmp(np.dstack([COLOURS, alpha]))), expected)


@pytest.mark.parametrize(
    "entry", [(0x0112, 1, 1, b"\6"), (0x0112, 2, 2, b"6\0"), (0x0112, 3, 2, b"\6\0\1\0"), (0x0112, 4, 1, b"\6\0\0\0")]
)
def test_an_orientation_of_an_unusual_type(entry):
    """A byte, a text, two numbers, a long number."""
    assert load_image(encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif(entry))).shape == (8, 4, 3)


@pytest.mark.parametrize("damaged", [b"\xee" * 14, struct.pack("<2sHIHHHI", b"II", 42, 8, 1, 0x011A, 2, 3) + b"72\0\0"])
def test_damaged_exif_data_does_not_cost_an_avif(damaged):
    """An AVIF is turned by its own boxes, so that its EXIF data is not needed."""
    pytest.importorskip("PIL._avif")
    entry = struct.pack("<HHI", 0x010F, 2, 4) + b"abc\0"
    content = encoded(
        Image.new("RGB", (64, 32)), "AVIF", exif=b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    )
    start = content.rindex(b"II*\0")
    content = content[:start] + damaged + content[start + len(damaged) :]
    assert load_image(content).shape == (32, 64, 3)


def test_a_hole_in_a_png_is_refused():
    """Pillow shows noise in the place of damaged pixels: it does not compare the checksums of a PNG."""
    content = bytearray(encoded(Image.fromarray(np.kron(COLOURS, np.ones((4, 4, 1), np.uint8))), "PNG"))
    middle = content.index(b"IDAT") + 2000
    content[middle : middle + 100] = bytes(100)
    with pytest.raises(ImageError, match="the bytes: the image is damaged"):
        load_image(bytes(content))


@pytest.mark.parametrize("start", [b"\0\0\0\x20ftypisom", b"\x1aE\xdf\xa3", b"RIFF\1\0\0\0AVI LIST"])
def test_a_video_names_the_command_that_reads_it(start):
    with pytest.raises(ImageError, match=r"not an image .*; for a video use `emola video` or analyze_video"):
        load_image(start + bytes(64))

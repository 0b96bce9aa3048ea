"""The numbers of a file become 8-bit sRGB as a viewer shows it: bit depth, profiles, orientation."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from sdk.errors import ImageError
from sdk.faces.images import load_image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits per channel; Pillow writes none with colours."""
    height, width, channels = values.shape

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_cameras_of_10_to_14_bits_are_not_black(bits, channels):
    """Numbers of 16 bits hold fewer; the upper byte alone is nearly black. Grey with alpha keeps its upper byte."""
    full = (1 << bits) - 1
    values = np.random.default_rng(bits).integers(0, full + 1, (9, 7, channels)).astype(np.uint16)
    values[0, 0] = full
    if channels in (2, 4):
        values[..., -1] = full  # opaque
    pixels = load_image(png16(values))
    expected = (values[..., : 3 if channels > 2 else 1] >> (bits - 8)).astype(int)
    assert np.abs(pixels - expected).max() <= (0 if channels != 2 else 1 << (16 - bits)), f"{bits} bits"


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("kind", "order"), [("u2", "<"), ("u2", ">"), ("i2", "<"), ("u4", "<"), ("rgb", "<"), ("rgb", ">")]
)
def test_twelve_bits_of_a_tiff(order, compression, kind):
    tifffile = pytest.importorskip("tifffile")
    colours = kind == "rgb"
    values = np.random.default_rng(0).integers(0, 4096, (9, 7, 3) if colours else (9, 7))
    values = values.astype("u2" if colours else kind)
    buffer = io.BytesIO()
    options = {"photometric": "rgb"} if colours else {}
    tifffile.imwrite(buffer, values, byteorder=order, compression=compression, **options)
    pixels = load_image(buffer.getvalue())
    np.testing.assert_array_equal(pixels, np.broadcast_to((values >> 4).reshape(9, 7, -1), (9, 7, 3)))


@pytest.mark.parametrize(("low", "high"), [(-5, 100), (0, 1 << 20)])
def test_numbers_without_a_range_are_refused(low, high):
    with pytest.raises(ImageError, match=f"integers from {low} to {high} have no defined range"):
        load_image(Image.fromarray(np.array([[low, high]], np.int32)))


def test_mode_i_keeps_8_bits():
    assert load_image(Image.fromarray(np.array([[0, 100, 255]], np.int32)))[0, :, 0].tolist() == [0, 100, 255]


def test_transparent_grey_of_16_bits_is_white():
    image = Image.fromarray(np.array([[0, 65535, 700]], np.uint16))
    assert load_image(encoded(image, transparency=0))[0, :, 0].tolist() == [255, 255, 2]


def exchanged_profile() -> bytes:
    """An RGB profile in which red and blue have changed places."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (count,) = struct.unpack_from(">I", content, 128)
    table = content[132 : 132 + 12 * count]
    exchanged = table.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    return content.replace(table, exchanged)


def photograph() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 30, 3)).astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_profiles_are_converted_to_srgb(kind):
    """Against Pillow's own conversion; a phone's Display P3 would give pale faces."""
    profile = exchanged_profile()
    content = encoded(photograph(), kind, icc_profile=profile, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(io.BytesIO(content)) as plain:
        plain.load()
    expected = ImageCms.profileToProfile(
        plain, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert np.abs(np.asarray(expected, int) - np.asarray(plain)).max() > 50, "the profile should change colours"
    np.testing.assert_array_equal(load_image(content), np.asarray(expected))


def test_profiles_of_transparent_palette_and_grey_pictures():
    red = Image.new("P", (2, 2))
    red.putpalette([255, 0, 0])
    transparent = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    for image, expected in (
        (red, (0, 0, 255)),
        (transparent, (255, 255, 255)),
        (Image.new("L", (2, 2), 90), (90,) * 3),
    ):
        pixels = load_image(encoded(image, icc_profile=exchanged_profile()))
        assert np.abs(pixels[0, 0].astype(int) - expected).max() < 40, pixels[0, 0]


def test_srgb_leaves_every_colour_as_it_is():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = photograph()
    np.testing.assert_array_equal(load_image(encoded(image, icc_profile=profile)), np.asarray(image))


@pytest.mark.parametrize("profile", [b"nonsense", b"", exchanged_profile()[:300], bytes(200)])
def test_a_damaged_profile_is_ignored(profile):
    image = photograph()
    np.testing.assert_array_equal(load_image(encoded(image, icc_profile=profile)), np.asarray(image))


def test_a_profile_of_other_channels_is_ignored():
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    plain = load_image(encoded(cmyk, "JPEG", quality=95))
    profiled = load_image(encoded(cmyk, "JPEG", quality=95, icc_profile=exchanged_profile()))
    np.testing.assert_array_equal(profiled, plain)


def test_lab_becomes_rgb():
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (4, 4), (200, 40, 30)),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    assert np.abs(load_image(encoded(lab, "TIFF"))[0, 0].astype(int) - (200, 40, 30)).max() < 6


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF data of tags (number, type, count, 4 bytes of a value or an offset)."""
    table = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4)


UPRIGHT = (0x0112, 3, 1, b"\6\0")
ODD = {
    "resolution as text": ((0x011A, 2, 3, b"72\0"),),
    "resolution of nothing": ((0x011A, 5, 0, b""),),
    "resolution beyond the end": ((0x011A, 5, 1, b"\xff\xff\xff\x0f"),),
    "maker of 4 GB": ((0x010F, 2, 0xFFFFFFFF, b"\x10\0\0\0"),),
    "model beyond the end": ((0x0110, 2, 99, b"\xff\xff\0\0"),),
    "unknown type": ((0x0100, 77, 1, b""),),
    "GPS as text": ((0x8825, 2, 3, b"ab\0"),),
    "more tags": ((0x9286, 7, 5000, b"\0\1\0\0"), (0x8769, 4, 1, b"\xff\xff\xff\xff")),
}


@pytest.mark.parametrize("entries", ODD.values(), ids=ODD)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_odd_exif_data_only_gives_the_orientation(kind, entries):
    """The other tags are of no use here, so that damage in them must not cost the picture or its orientation."""
    before = tuple(entry for entry in entries if entry[0] < UPRIGHT[0])
    data = exif(*before, UPRIGHT, *(entry for entry in entries if entry[0] > UPRIGHT[0]))
    assert load_image(encoded(Image.new("RGB", (8, 4)), kind, exif=data)).shape == (8, 4, 3)


def test_random_exif_data_never_costs_the_picture():
    rng, whole = random.Random(3), exif((0x010F, 2, 6, b"\x1a\0\0\0"), UPRIGHT, (0x8769, 4, 1, b"\x1a\0\0\0"))
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(6, len(data))] = rng.randrange(256)
        content = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=bytes(data))
        assert load_image(content).shape in {(4, 8, 3), (8, 4, 3)}


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP", "PIL"])
def test_every_orientation_as_in_pillow(kind, orientation):
    image = Image.fromarray(
        np.kron(np.random.default_rng(2).integers(0, 256, (3, 5, 3)), np.ones((8, 8, 1))).astype("u1")
    )
    tags = Image.Exif()
    tags[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(image, "PNG" if kind == "PIL" else kind, exif=tags, **options)
    with Image.open(io.BytesIO(content)) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    with Image.open(io.BytesIO(content)) as picture:
        np.testing.assert_array_equal(load_image(picture if kind == "PIL" else content), expected)

"""Every common picture becomes upright RGB; everything else one clear error."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sdk.errors import ImageError
from sdk.faces.images import load_image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(mode: str = "RGB") -> Image.Image:
    values = np.arange(12, dtype=np.uint8).reshape(2, 6).repeat(3).reshape(2, 6, 3) * 20
    return Image.fromarray(values).convert(mode)


def test_path_bytes_pil_and_array_give_the_same(tmp_path):
    image = gradient()
    image.save(tmp_path / "a.png")
    expected = np.asarray(image)
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), encoded(image), image):
        np.testing.assert_array_equal(load_image(source), expected)
    np.testing.assert_array_equal(load_image(expected, color="rgb"), expected)
    np.testing.assert_array_equal(load_image(expected[:, :, ::-1], color="bgr"), expected)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate by 270 degrees
    image = Image.fromarray(np.zeros((4, 8, 3), np.uint8))
    assert load_image(encoded(image, "JPEG", exif=exif)).shape == (8, 4, 3)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA", "YCbCr", "HSV"])
def test_every_mode_becomes_rgb(mode):
    pixels = load_image(gradient(mode))
    assert pixels.shape == (2, 6, 3)
    assert pixels.dtype == np.uint8


def test_sixteen_bits_keep_their_range():
    wide = Image.fromarray(np.array([[0, 32768, 65535]], np.uint16))
    assert load_image(encoded(wide))[0, :, 0].tolist() == [0, 128, 255]


def test_transparency_is_laid_over_white():
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert (load_image(clear) == 255).all()
    palette = Image.new("P", (2, 2))
    assert (load_image(encoded(palette, transparency=0)) == 255).all()


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(animation)[0, 0].tolist() == [255, 0, 0]


def test_grey_arrays_need_no_channel_order():
    assert load_image(np.zeros((5, 4), np.uint8)).shape == (5, 4, 3)


def test_one_pixel_is_a_picture():
    assert load_image(np.zeros((1, 1, 3), np.uint8), color="rgb").shape == (1, 1, 3)


def huge_png(side: int) -> bytes:
    """A header that promises side x side pixels, and hardly any data."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 1000) + b"IDAT" + bytes(8)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (b"", {}, "0 bytes"),
        (b"this is no picture", {}, "not an image that Pillow can read"),
        (encoded(gradient().resize((64, 64)), "JPEG")[:-200], {}, "damaged or truncated"),
        (encoded(gradient().resize((64, 64)))[:80], {}, "damaged or truncated"),
        (huge_png(50_000), {}, "2500 megapixels, the limit is 100; .*--max-pixels 2500000000"),
        (huge_png(11_000), {}, "11000 x 11000 is 121 megapixels, the limit is 100"),
        (np.zeros((4, 4, 3), np.float32), {"color": "rgb"}, "expected a uint8 array"),
        (np.zeros((4, 4, 4), np.uint8), {"color": "rgb"}, r"shape \(H, W, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), {"color": "rgb"}, "no pixels"),
        (np.zeros((4, 4, 3), np.uint8), {}, "color='rgb' or color='bgr'"),
        (np.zeros((4, 4, 3), np.uint8), {"color": "gbr"}, "color='rgb' or color='bgr'"),
        (gradient(), {"color": "rgb"}, "is for arrays only"),
        (Image.fromarray(np.zeros((2, 2), np.float32)), {}, "floating-point"),
        (None, {}, "found NoneType"),
        ("no/such/file.png", {}, "does not exist"),
        (".", {}, "is a folder: .* analyze_batch takes folders"),
        ("https://example.org/a.png", {}, "not downloaded"),
    ],
)
def test_bad_input_is_one_clear_error(source, options, message):
    with pytest.raises(ImageError, match=message):
        load_image(source, **options)

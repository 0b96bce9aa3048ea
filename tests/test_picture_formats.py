"""Only formats of photographs are decoded, whatever a file is called; every other file is one ImageError."""

import io
import random
import struct
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from sdk.errors import DataError, ImageError
from sdk.faces import formats
from sdk.faces.images import load_image, read_size
from trainer.corpus.annotate import _find_pictures
from trainer.corpus.datasets.frames import number_images

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{ } loop\n"
SMALL = Image.fromarray(np.arange(64 * 48 * 3, dtype=np.uint32).reshape(48, 64, 3).astype(np.uint8))
READ = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "MPO", "AVIF")
NOT_READ = ("PPM", "TGA", "ICO", "PCX", "DDS", "BLP", "JPEG2000", "SGI", "MSP", "XBM", "DIB", "ICNS", "QOI")


def encoded(kind: str, image: Image.Image = SMALL, **options) -> bytes:
    buffer = io.BytesIO()
    mode = {"MSP": "1", "XBM": "1", "BLP": "P", "QOI": "RGB"}.get(kind, image.mode)
    image.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def needs(kind: str):
    """Skip where this Pillow cannot write a format: AVIF came with 11.3."""
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"Pillow without {kind}")


@pytest.mark.parametrize("kind", READ)
def test_photographs_are_read(kind):
    needs(kind)
    content = encoded(kind)
    with Image.open(io.BytesIO(content)) as reference:
        np.testing.assert_array_equal(load_image(content), np.asarray(reference.convert("RGB")))
    assert read_size(content) == (64, 48)


@pytest.mark.parametrize("kind", NOT_READ)
def test_other_formats_of_pillow_are_refused(kind, tmp_path):
    """A decoder that nobody needs is a decoder to attack; the message names what is read."""
    needs(kind)
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(kind))
    for read in (load_image, read_size):
        with pytest.raises(ImageError, match=r"photo.jpg: not an image .*expected JPEG, MPO, PNG, WebP, .* or HEIF"):
            read(path)


def test_postscript_starts_no_program(tmp_path, monkeypatch):
    """Pillow gives EPS to Ghostscript, and `{ } loop` never ends."""
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    path = tmp_path / "photo.jpg"
    path.write_bytes(EPS)
    for source in (path, EPS):
        with pytest.raises(ImageError, match="not an image that Pillow can read safely"):
            load_image(source)
    with Image.open(io.BytesIO(EPS)) as lazy, pytest.raises(ImageError, match=r"the PIL image is EPS.*call its load"):
        load_image(lazy)


def test_a_pil_image_of_another_format_is_used_once_it_is_decoded():
    with Image.open(io.BytesIO(encoded("PPM"))) as image:
        with pytest.raises(ImageError, match="PIL image is PPM"):
            load_image(image)
        image.load()
        np.testing.assert_array_equal(load_image(image), np.asarray(SMALL))


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


def test_heif_names_the_package_that_reads_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    Image.init()
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(ImageError, match=r"no decoder of HEIF is installed; pip install 'emola-edge\[heif\]'"):
        load_image(HEIC)


def test_heif_is_read_where_its_plugin_is_registered(monkeypatch):
    class Plugin(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self):
            self._size, self._mode = (3, 2), "RGB"

        def load(self):
            if self._im is None:
                self.im = Image.new("RGB", self.size, "red").im
            return super().load()

    monkeypatch.setitem(Image.OPEN, "HEIF", (Plugin, None))
    assert load_image(HEIC)[0, 0].tolist() == [255, 0, 0]


def test_heif_of_the_package():
    """`red.heic` was written by pillow-heif 1.8."""
    pytest.importorskip("pi_heif")
    path = Path(__file__).parent / "data/red.heic"
    assert read_size(path) == (64, 48)
    assert np.abs(load_image(path).astype(int) - (200, 40, 30)).max() < 6


class Failing:
    """A decoder that fails in the way of the parameter."""

    def __init__(self, error):
        self.error = error

    def __call__(self, file, name):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to decode image"),
        NotImplementedError("Unimplemented pixel format"),
        struct.error("unpack requires a buffer"),
        TypeError("bad operand type for abs(): 'str'"),
        ZeroDivisionError(),
        IndexError("out of range"),
        KeyError(7),
        RecursionError("maximum recursion depth"),
        OverflowError(),
        AssertionError(),
        MemoryError(),
        Image.DecompressionBombError("bomb"),
    ],
    ids=repr,
)
def test_every_error_of_a_decoder_is_an_image_error(error, monkeypatch):
    monkeypatch.setattr("sdk.faces.images.open_picture", Failing(error))
    with pytest.raises(
        ImageError, match=r"the bytes: .*(damaged or truncated|not enough memory|more pixels than Pillow decodes)"
    ):
        load_image(b"x")


@pytest.mark.parametrize("kind", READ)
def test_damaged_files_are_image_errors_or_pictures(kind):
    """Bytes changed, cut or repeated at random: 60 of each format, nothing else may escape."""
    needs(kind)
    rng, whole = random.Random(kind), encoded(kind)
    for _ in range(60):
        content = bytearray(whole[: rng.randrange(1, len(whole) + 1)] if rng.random() < 0.3 else whole)
        for _ in range(rng.choice((1, 1, 3, 30))):
            content[rng.randrange(min(len(content), rng.choice((64, 600, len(content)))))] = rng.randrange(256)
        message = ""
        try:
            assert load_image(bytes(content)).shape[2] == 3
        except ImageError as error:
            message = str(error)
        assert len(message) < 500
        assert "\n" not in message


def test_odd_paths_are_named_for_what_they_are(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    for name, message in {
        "pipe.jpg": "no regular file",
        "empty.jpg": "has 0 bytes",
        "loop.jpg": "cannot be opened",
        "empty.jpg/x": "does not exist",
        "a\0b": "cannot be opened",
    }.items():
        with pytest.raises(ImageError, match=message):
            load_image(f"{tmp_path}/{name}")


def test_threads_leave_the_warning_filters_as_they_were():
    """`warnings.catch_warnings` restores what another thread has changed, and then no warning is ever shown again."""
    content, before = encoded("PNG"), list(warnings.filters)
    threads = [threading.Thread(target=lambda: [load_image(content) for _ in range(40)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_data_sets_find_pictures_of_every_format_that_is_read(tmp_path):
    """Folders of .heic, .avif and .jfif were passed over without a word."""
    names = [f"frame{index:03}{suffix}" for index, suffix in enumerate(sorted(formats.SUFFIXES))]
    for name in (*names, "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in number_images(tmp_path).values()] == names
    assert sorted(path.name for path in _find_pictures(tmp_path, tmp_path.parent / "out").values()) == names
    assert {".heic", ".avif", ".jfif", ".mpo", ".gif"} <= formats.SUFFIXES
    for name in names:
        (tmp_path / name).rename(tmp_path / f"{name}.jp2")
    with pytest.raises(DataError, match=r"holds no picture; expected JPEG.*\.jp2 is not read"):
        _find_pictures(tmp_path, tmp_path.parent / "out")

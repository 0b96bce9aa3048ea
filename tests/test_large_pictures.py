"""Large pictures: photographs of phones work, small files that claim much memory or time do not get it."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from sdk import Analyzer
from sdk.cli import main
from sdk.errors import ImageError
from sdk.faces import formats, images
from sdk.faces.images import load_image, load_picture, read_size, shrink_of

LOAD = """
import sys
from sdk.faces.images import load_picture
import PIL.Image; PIL.Image.init()
def memory(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) // 1024
before = memory("VmRSS")
picture = load_picture(sys.argv[1])
print(*picture.size, picture.shrink, *picture.pixels.shape[:2], memory("VmHWM") - before)
"""


def flat_png(width: int, height: int, bits: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of zeros, a thousandth of its decoded size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    channels = {0: 1, 2: 3, 3: 1, 6: 4}[colour]
    packer, row = zlib.compressobj(1), bytes(1 + -(-width * bits * channels // 8))
    content = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", content), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def measured(path) -> list[int]:
    """Width, height and shrink of a picture in a process of its own, height and width of its pixels, megabytes."""
    output = subprocess.run([sys.executable, "-c", LOAD, str(path)], check=True, capture_output=True, text=True)
    return [int(word) for word in output.stdout.split()]


WEBP = bytes.fromhex("524946461e000000574542505650384c110000002f3fdfcf070750e42ad4a3ff8188e87f0000")  # 8,000 x 8,000
PALETTE = (b"PLTE", bytes(6)), (b"tRNS", b"\0\xff")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "options",
    [(10_000, 10_000, 1, 3, *PALETTE), (10_000, 10_000, 8, 0), (10_000, 9_900, 8, 6)],
    ids=["transparent palette", "grey", "transparent colours"],
)
def test_a_small_file_takes_no_gigabytes(options, tmp_path):
    """Those of 12 and 195 KB took 1.2 and 2.1 GB. Now: the decoder's memory, and the result at half size."""
    path = tmp_path / "bomb.png"
    path.write_bytes(flat_png(*options))
    width, height, shrink, rows, columns, megabytes = measured(path)
    assert (width, shrink, rows, columns) == (10_000, 2, height // 2, 5000)
    assert path.stat().st_size < 2_000_000
    assert megabytes < 700


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("progressive", [False, True])
def test_photographs_of_phones(tmp_path, progressive):
    """12,032 x 9,024, 108 megapixels: half size, decoded by libjpeg itself."""
    path = tmp_path / "phone.jpg"
    Image.new("L", (12_032, 9_024), 90).save(path, progressive=progressive)
    assert read_size(path) == (12_032, 9_024)
    width, height, shrink, rows, columns, megabytes = measured(path)
    assert (width, height, shrink, rows, columns) == (12_032, 9_024, 2, 4512, 6016)
    assert megabytes < 700


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PIL", "array"])
@pytest.mark.parametrize("size", [(301, 200), (200, 301), (1600, 3)])
def test_half_size_is_the_mean_of_squares(kind, size, monkeypatch):
    """Against Pillow's `reduce` and `draft`; the EXIF orientation is applied after it."""
    monkeypatch.setattr(images, "KEPT_PIXELS", 20_000)
    monkeypatch.setattr(images, "KEPT_SIDE", 300)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3)).astype(np.uint8))
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    picture.save(buffer, "PNG" if kind in ("PIL", "array") else kind, exif=exif)
    shrink = shrink_of(size)
    reference = Image.open(buffer)
    if kind == "JPEG":
        reference.draft(None, tuple(max(1, side // shrink) for side in size))
        reference = reference.reduce(shrink // round(size[0] / reference.width))
    else:
        reference = reference.reduce(shrink)
    expected = np.rot90(np.asarray(reference), -1)
    if kind == "array":
        found = load_picture(np.rot90(np.asarray(picture), -1), color="rgb")
    else:
        found = load_picture(Image.open(buffer) if kind == "PIL" else buffer.getvalue())
    assert (found.size, found.shrink) == (size[::-1], shrink)
    assert found.pixels.shape == expected.shape
    if kind != "array":  # squares start at another corner
        np.testing.assert_array_equal(found.pixels, expected)


def test_results_are_in_pixels_of_the_file(bundle, astronaut, monkeypatch):
    """At half size: the same face, box and landmarks as at full size, within 3 % of the picture."""
    analyzer = Analyzer(bundle())
    picture = Image.fromarray(astronaut).resize((1400, 1400), Image.Resampling.BICUBIC)
    full = analyzer.analyze(picture, tasks=("emotion",), max_new_tokens=2)
    monkeypatch.setattr(images, "KEPT_SIDE", 700)
    half = analyzer.analyze(picture, tasks=("emotion",), max_new_tokens=2)
    (batch,) = analyzer.analyze_batch([picture], tasks=("emotion",), max_new_tokens=2)
    assert half.image_size == batch.image_size == full.image_size == (1400, 1400)
    assert len(full.faces) == 1
    for found in (half, batch):
        assert np.abs(np.subtract(found.faces[0].box_xyxy, full.faces[0].box_xyxy)).max() < 42
    assert half.plot(picture).size == full.plot(picture).size


def test_max_pixels_raises_and_lowers_the_limit(bundle, astronaut, monkeypatch, tmp_path, capsys):
    """In Python and on the command line; what was analysed can be drawn again from its file."""
    path = tmp_path / "astronaut.png"
    Image.fromarray(astronaut).save(path)
    options = {"tasks": ("emotion",), "max_new_tokens": 2}
    advice = r"262144 megapixels, the limit is 0\.1; .* max_pixels=262144 \(--max-pixels 262144\)"
    small = Analyzer(bundle(), max_pixels=100_000)
    for call in (small.analyze, lambda each, **options: small.analyze_batch([each], **options)):
        with pytest.raises(ImageError, match=advice):
            call(path, **options)
    with pytest.raises(ImageError, match=advice):
        small.ask(path, "Why?")
    monkeypatch.setattr(images, "MAX_PIXELS", 100_000)
    with pytest.raises(ImageError, match=advice):
        Analyzer(bundle()).analyze(path, **options)
    found = Analyzer(bundle(), max_pixels=262_144).analyze(path, **options)
    assert len(found.faces) == 1
    assert found.plot().width == 960
    assert "data:image/jpeg" in found._repr_html_()
    command = ["analyze", str(path), "--bundle", str(bundle()), "--max-tokens", "2"]
    assert main(command) == 1
    assert "--max-pixels 262144" in capsys.readouterr().err
    assert main([*command, "--max-pixels", "262144"]) == 0


def test_max_pixels_allows_memory_within_what_is_left(monkeypatch):
    """A decoder gets memory in proportion to it, and never more than the machine has."""
    content = flat_png(100, 100, 8, 0)  # 40 KB to decode
    monkeypatch.setattr(formats, "_MEMORY", 20_000)
    with pytest.raises(ImageError, match="baseline JPEG, or allow it with max_pixels=200000000"):
        load_image(content)
    assert load_image(content, max_pixels=200_000_000).shape == (100, 100, 3)
    monkeypatch.setattr(formats, "available_memory", lambda: 30_000.0)
    with pytest.raises(ImageError, match="the limit is 0; scale it down, save it as baseline JPEG$"):
        load_image(content, max_pixels=200_000_000)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 2)])
def test_odd_shapes_are_analysed(bundle, size):
    """No detector and no network may stumble over a line of pixels."""
    analyzer = Analyzer(bundle())
    picture = Image.new("RGB", size, "grey")
    assert analyzer.analyze(picture, tasks=("emotion",), max_new_tokens=1).status == "no_face"
    assert len(analyzer.analyze(picture, tasks=("emotion",), max_new_tokens=1, faces="aligned").faces) == 1


def test_a_line_of_pixels_is_no_square_of_gigabytes():
    """An aligned face is padded to a square; 100,000 x 300 would become 40 GB."""
    picture = load_picture(flat_png(100_000, 300, 1, 0))
    assert picture.size == (100_000, 300)
    assert max(picture.pixels.shape) <= images.KEPT_SIDE


def test_thousands_of_scans_are_refused():
    """Each scan of a progressive JPEG visits every pixel: 60 KB took minutes."""
    buffer = io.BytesIO()
    Image.new("RGB", (1000, 1000), (1, 200, 3)).save(buffer, "JPEG", progressive=True)
    parts = buffer.getvalue().split(b"\xff\xda")
    scan = b"\xff\xda" + parts[-1][:-2]
    content = buffer.getvalue()[:-2] + 1600 * scan + b"\xff\xd9"
    for read in (load_image, read_size):
        with pytest.raises(ImageError, match=r"a JPEG of 16\d\d scans takes too long"):
            read(content)
    assert load_image(buffer.getvalue()).shape == (1000, 1000, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (flat_png(11_000, 11_000, 1, 0), "121 megapixels, the limit is 100"),
        (WEBP, "as WEBP needs about 1024 MB"),
    ],
    ids=["PNG", "WebP"],
)
def test_formats_have_their_own_limits(content, message):
    """Decoders of WebP and AVIF take 16 bytes for a pixel, that of PNG 4."""
    for read in (load_image, read_size):
        with pytest.raises(ImageError, match=message):
            read(content)

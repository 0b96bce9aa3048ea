"""A frame is what a player shows: which stream, which way up, which shape, which colours; ffmpeg is the judge."""

import itertools
import struct
import subprocess
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageFilter

from sdk.errors import VideoError
from sdk.frames import read_frames

av = pytest.importorskip("av")
from clips import ffmpeg, set_display_matrix, shown_by_ffmpeg, write_clip  # noqa: E402

RED, GREEN, BLUE, GREY = (200, 40, 40), (40, 160, 40), (50, 60, 200), (130, 130, 130)
MATRICES = [
    *((a, 0, 0, d) for a, d in itertools.product((1, -1), repeat=2)),
    *((0, b, c, 0) for b, c in itertools.product((1, -1), repeat=2)),
]


def corners(height=48, width=64):
    """Red, green, blue and grey quarters, row by row."""
    picture = np.empty((height, width, 3), np.uint8)
    for (y, x), colour in zip(itertools.product((0, 1), repeat=2), (RED, GREEN, BLUE, GREY), strict=True):
        picture[y * height // 2 :, x * width // 2 :] = colour
    return picture


def first(path):
    return next(iter(read_frames(path))).pixels()


def quarters(pixels):
    """The colours in the centres of the quarters of a picture, as names, row by row."""
    names = {RED: "red", GREEN: "green", BLUE: "blue", GREY: "grey"}
    height, width, _ = pixels.shape
    found = [pixels[y, x].astype(int) for y in (height // 4, -height // 4) for x in (width // 4, -width // 4)]
    return " ".join(names[min(names, key=lambda name: abs(np.array(name) - colour).sum())] for colour in found)


@pytest.mark.parametrize(
    ("matrix", "seen"),
    [
        ((-1, 0, 0, 1), "green red grey blue"),  # mirrored, as front cameras record
        ((1, 0, 0, -1), "blue grey red green"),
        ((-1, 0, 0, -1), "grey blue green red"),
        ((0, 1, -1, 0), "blue red grey green"),  # a quarter clockwise
        ((0, 1, 1, 0), "red blue green grey"),  # mirrored and turned
    ],
)
def test_a_mirrored_or_turned_display_matrix_is_obeyed(tmp_path, matrix, seen):
    pixels = first(set_display_matrix(write_clip(tmp_path / "a.mp4", [corners()] * 2), matrix))
    assert quarters(pixels) == seen
    assert pixels.shape == ((64, 48, 3) if matrix[1] else (48, 64, 3))


@pytest.mark.parametrize("aspect", [None, Fraction(24, 11)])
@pytest.mark.parametrize("matrix", MATRICES)
def test_every_display_matrix_and_pixel_shape_gives_the_picture_of_ffmpeg(tmp_path, matrix, aspect):
    """ffmpeg turns by itself; its filter `scale` makes the pixels square. Soft edges: colour is stored at half size."""
    soft = np.asarray(Image.fromarray(corners()).filter(ImageFilter.GaussianBlur(6)))
    path = set_display_matrix(write_clip(tmp_path / "a.mp4", [soft] * 2, aspect=aspect), matrix)
    ours = first(path)
    square = "scale=iw:ih/sar" if matrix[1] else "scale=iw*sar:ih"  # a quarter turn also turns the pixels
    theirs = shown_by_ffmpeg(path, ours.shape, square)[0]
    difference = abs(ours.astype(int) - theirs).mean()
    wrong = min(abs(np.flip(ours, axis).astype(int) - theirs).mean() for axis in (0, 1))
    assert difference < 3 < 30 < wrong, f"mean difference {difference:.2f} of 255; of a mirrored picture {wrong:.0f}"


def test_pixels_that_are_not_square(tmp_path):
    """The height stays. A ratio that no camera records is not obeyed: a damaged one must not fill the memory."""
    for aspect, width in ((Fraction(24, 11), 139), (Fraction(8, 9), 56), (Fraction(1), 64), (Fraction(4000), 64)):
        path = write_clip(tmp_path / f"{width}-{aspect.numerator}.mp4", [corners()] * 2, aspect=aspect)
        assert first(path).shape == (48, width, 3)


def with_cover_first(path, cover):
    """An mp4 file whose stream 0 is a cover picture: the metadata moved before the track, as some phones write it."""
    with av.open(str(path), "w") as container:
        video, picture = container.add_stream("libx264", rate=10), container.add_stream("mjpeg", rate=10)
        for stream, form in ((video, "yuv420p"), (picture, "yuvj420p")):
            stream.width, stream.height, stream.pix_fmt = 64, 48, form
        picture.disposition = av.stream.Disposition.attached_pic.value
        for stream, pixels in ((picture, cover), *[(video, corners())] * 20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
    content = path.read_bytes()
    start = content.index(b"moov") - 4
    boxes, at = [], start + 8
    while at < len(content):
        length = struct.unpack(">I", content[at : at + 4])[0]
        boxes.append(content[at : at + length])
        at += length
    boxes.sort(key=lambda box: (b"mvhd", b"udta", b"trak").index(box[4:8]))
    path.write_bytes(content[: start + 8] + b"".join(boxes))


def test_a_cover_picture_as_stream_0_is_not_the_video(tmp_path):
    path = tmp_path / "cover.mp4"
    with_cover_first(path, np.full((48, 64, 3), 250, np.uint8))
    with av.open(str(path)) as container:
        assert [stream.name for stream in container.streams.video] == ["mjpeg", "h264"]
    frames = list(read_frames(path))
    assert len(frames) == 20
    assert quarters(frames[0].pixels()) == "red green blue grey"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"trak", b"free"))
    with pytest.raises(VideoError, match="has no video stream, only a cover picture"):
        read_frames(path)


@pytest.mark.parametrize("default", [0, 1, None])
def test_the_default_stream_is_shown_or_else_the_largest(tmp_path, default):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=10) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.width, stream.height, stream.pix_fmt = 64 + 32 * number, 48, "yuv420p"
            stream.disposition = int(number == default)
        for stream in streams:
            frame = av.VideoFrame.from_ndarray(corners(48, stream.width), format="rgb24")
            container.mux([*stream.encode(frame), *stream.encode(None)])
    assert first(path).shape[1] == {0: 64, 1: 96, None: 96}[default]


def of_one_colour(path, luma_blue_red, matrix, full):
    """One frame of one Y'CbCr value, stored without loss."""
    frame = av.VideoFrame(64, 48, "yuv420p")
    for plane, value in zip(frame.planes, luma_blue_red, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    with av.open(str(path), "w") as container:
        colours = f"colormatrix={matrix}:fullrange={'on' if full else 'off'}"
        stream = container.add_stream("libx264", rate=10, options={"qp": "0", "x264-params": colours})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("matrix", "kr", "kb"),
    [("bt709", 0.2126, 0.0722), ("smpte170m", 0.299, 0.114), ("bt470bg", 0.299, 0.114), ("bt2020nc", 0.2627, 0.0593)],
)
def test_colours_follow_the_recorded_matrix_and_range(tmp_path, matrix, kr, kb, full):
    """The equations of ITU-R BT.601, BT.709 and BT.2020: PyAV before 17 reads all of them as BT.601."""
    r, g, b = rgb = np.array([200.0, 90.0, 60.0])
    luma = kr * r + (1 - kr - kb) * g + kb * b
    blue, red = (b - luma) / (2 - 2 * kb), (r - luma) / (2 - 2 * kr)
    lowest, luma_scale, chroma_scale = (0, 1, 1) if full else (16, 219 / 255, 224 / 255)
    stored = (lowest + luma_scale * luma, 128 + chroma_scale * blue, 128 + chroma_scale * red)
    path = of_one_colour(tmp_path / "a.mp4", [round(value) for value in stored], matrix, full)
    pixels = first(path)
    assert abs(pixels.astype(int) - rgb).max() <= 3, f"expected {rgb}, got {pixels[0, 0]}"
    assert abs(pixels.astype(int) - shown_by_ffmpeg(path, pixels.shape)[0]).max() <= 1


def stored(path, *options):
    """Copy a clip by the program ffmpeg with other metadata."""
    target = path.with_name(f"stored{path.suffix}")
    subprocess.run([ffmpeg(), "-v", "error", "-nostdin", "-i", path, "-c", "copy", *options, target], check=True)
    return target


def test_an_orientation_that_is_recorded_with_key_frames_holds_for_all(tmp_path):
    """FFmpeg hands the message of an H.264 stream on with the key frame alone: the others would lie on their side."""
    path = write_clip(tmp_path / "a.mp4", [corners()] * 9)
    turned = stored(path, "-bsf:v", "h264_metadata=display_orientation=insert:rotate=90")
    frames = [frame.pixels() for frame in read_frames(turned)]
    assert len(frames) == 9
    assert {quarters(pixels) for pixels in frames} == {"green grey red blue"}


def test_colours_that_ffmpeg_cannot_convert_are_a_video_error(tmp_path):
    path = stored(write_clip(tmp_path / "a.mp4", [corners()] * 2), "-bsf:v", "h264_metadata=matrix_coefficients=8")
    with pytest.raises(VideoError, match="cannot convert frames of yuv420p with colour matrix 8"):
        first(path)

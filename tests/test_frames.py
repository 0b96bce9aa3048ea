"""Reading frames: files, live streams, and everything that can be wrong with them."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from sdk.errors import VideoError
from sdk.frames import read_frames

av = pytest.importorskip("av")
from clips import live, write_clip  # noqa: E402


def grey(value, height=48, width=64):
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """50 frames at 25 per second, ever brighter."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", (grey(4 * i) for i in range(50)))


def test_every_frame_with_its_time(clip):
    frames = list(read_frames(clip))
    assert [frame.index for frame in frames] == list(range(50))
    assert [frame.time_s for frame in frames] == pytest.approx([i / 25 for i in range(50)])
    assert all(abs(int(frame.pixels().mean()) - 4 * frame.index) <= 4 for frame in frames)
    assert frames[0].pixels().shape == (48, 64, 3)


@pytest.mark.parametrize(("fps", "count"), [(1, 2), (5, 10), (10, 20), (25, 50), (100, 50)])
def test_sampling(clip, fps, count):
    assert len(list(read_frames(clip, sample_fps=fps))) == count


def test_late_frames_are_dropped_and_counted(clip):
    """A reader that needs 100 ms per frame, against a deadline of 50 ms: it skips frames, and they are counted."""
    seen = []
    for frame in read_frames(clip, deadline_s=0.05):
        seen.append(frame)
        time.sleep(0.1)
    assert len(seen) < 40
    assert seen[-1].dropped == seen[-1].index + 1 - len(seen)
    assert [frame.index for frame in seen] == sorted({frame.index for frame in seen})
    patient = list(read_frames(clip, deadline_s=1000))
    assert (len(patient), patient[-1].dropped) == (50, 0)


def test_of_a_live_stream_only_the_newest_frame_waits(tmp_path):
    """MPEG-TS over a socket, all at once: a slow reader gets the last frame, and none that is older than its last."""
    stream = tmp_path / "live.ts"
    write_clip(stream, (grey(4 * i) for i in range(50)))
    with live(stream) as url:
        seen = []
        for frame in read_frames(url):
            seen.append((frame.index, frame.dropped))
            time.sleep(0.3)
    indices = [index for index, _ in seen]
    assert indices == sorted(indices)
    assert indices[-1] == 49
    assert seen[-1][1] == 50 - len(seen) > 0


def jpeg(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_change_of_the_frame_size_is_one_clear_error(tmp_path):
    path = tmp_path / "cam.mjpeg"
    path.write_bytes(b"".join([jpeg(grey(9))] * 3 + [jpeg(grey(9, 96, 128))] * 3))
    frames = read_frames(path)
    assert [next(frames).index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(VideoError, match="frame size changes from 64 x 48 to 128 x 96 at frame 3"):
        next(frames)


def test_a_clip_of_no_length(tmp_path):
    """A header without a frame (YUV4MPEG2), and a container that was closed before the first one."""
    header, container = tmp_path / "empty.y4m", tmp_path / "empty.mkv"
    header.write_bytes(b"YUV4MPEG2 W64 H48 F25:1 Ip C420jpeg\n")
    with av.open(str(container), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        output.start_encoding()
    for path in (header, container):
        with pytest.raises(VideoError, match="holds no frame|cannot be opened .*End of file"):
            list(read_frames(path))


def test_what_cannot_be_read(tmp_path, clip):
    nonsense, sound = tmp_path / "nonsense.mp4", tmp_path / "sound.wav"
    nonsense.write_bytes(b"no video at all")
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[:700])
    cases = [
        ("nowhere.mp4", "does not exist: expected a video file"),
        (tmp_path, "is a folder"),
        (nonsense, "cannot be opened"),
        (cut, "cannot be opened"),
        (sound, "has no video stream"),
        (7, "camera .*7.* cannot be opened.*check that it exists"),
        ("7", "camera .*7.* cannot be opened"),
        ("rtsp://127.0.0.1:9/none", "cannot be opened"),
    ]
    for source, message in cases:
        with pytest.raises(VideoError, match=message):
            list(read_frames(source))
    for options in ({"sample_fps": 0}, {"deadline_s": -1}):
        with pytest.raises(VideoError, match="must be greater than 0"):
            read_frames(clip, **options)

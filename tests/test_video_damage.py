"""Damaged packets and odd timestamps: what can be decoded is analysed, what is lost is counted, and times increase."""

import itertools

import numpy as np
import pytest

from sdk.errors import DataError, VideoError
from sdk.frames import Frame, read_frames
from sdk.recording import AnnotatedVideo
from sdk.records import AnalysisRecord, FrameInfo, ModelInfo
from sdk.video_stream import Times
from trainer.corpus.datasets.frames import read_pictures
from trainer.corpus.datasets.labelled_face import LabelledFace

av = pytest.importorskip("av")
from clips import damage, live, shown_by_ffmpeg, write_clip  # noqa: E402

GOP = {"g": "10", "bf": "2"}  # a key frame every ten frames, and frames that are not stored in the order of display


def brighter(count=30):
    return [np.full((48, 64, 3), 8 * number, np.uint8) for number in range(count)]


def grey(frame: Frame) -> int:
    """The number of the frame, from its brightness."""
    return round(frame.pixels().mean() / 8)


@pytest.mark.parametrize(
    ("codec", "name"),
    [("libx264", "a.mkv"), ("libx264", "a.mp4"), ("libx264", "a.avi"), ("mpeg4", "a.avi"), ("mjpeg", "a.avi")],
)
@pytest.mark.parametrize("chosen", [[13], [5, 6, 7], [28, 29]])
def test_damaged_packets_cost_their_own_frames_only(tmp_path, codec, name, chosen, caplog):
    """Noise in place of some of 30 packets: all frames that ffmpeg decodes, in order, each at its own time."""
    sound = write_clip(
        tmp_path / f"sound-{name}", brighter(), 10, codec=codec, options=None if codec == "mjpeg" else GOP
    )
    path = damage(tmp_path / name, chosen, sound)
    frames = list(read_frames(path))
    assert len(frames) == len(shown_by_ffmpeg(path, (48, 64, 3)))
    assert 24 <= len(frames) <= 30 - len(chosen)
    for before, after in itertools.pairwise(frames):
        assert after.time_s > before.time_s
        assert after.damaged >= before.damaged
    assert f"{len(chosen)} damaged packet{'s were' if len(chosen) > 1 else ' was'} skipped" in caplog.text
    assert frames[-1].damaged == len(chosen) or chosen[0] == 28, "no frame follows the last packets"


def test_frames_after_a_damaged_packet_keep_their_times(tmp_path):
    path = tmp_path / "a.avi"
    damage(path, [13], write_clip(tmp_path / "sound.avi", brighter(), 10, codec="mjpeg"))
    frames = list(read_frames(path))
    assert [grey(frame) for frame in frames] == [number for number in range(30) if number != 13]
    assert [round(10 * frame.time_s) for frame in frames] == [number for number in range(30) if number != 13]
    assert [frame.damaged for frame in frames] == [0] * 13 + [1] * 16


def test_a_video_of_damage_alone_is_one_clear_error(tmp_path):
    sound = write_clip(tmp_path / "sound.avi", brighter(), 10, codec="mjpeg")
    with pytest.raises(VideoError, match=r"holds no frame: none of its 30 packets can be decoded \(.+\); expected"):
        list(read_frames(damage(tmp_path / "a.avi", range(30), sound)))


def test_a_damaged_picture_of_a_live_camera_does_not_end_it(tmp_path):
    """A network camera that sends JPEG pictures, one of them noise: the last one still arrives."""
    path = damage(tmp_path / "a.avi", [13], write_clip(tmp_path / "sound.avi", brighter(), 10, codec="mjpeg"))
    with live(path) as url:
        frames = list(read_frames(url))
    assert (frames[-1].index, frames[-1].damaged, grey(frames[-1])) == (28, 1, 29)


class Camera:
    """A driver that reports some buffers as broken and some calls as too early (as AVFoundation and V4L2 do)."""

    def __init__(self, path, faults):
        self._container, self._faults = av.open(str(path)), iter(faults)
        self.streams, self.format = self._container.streams, self._container.format

    def demux(self, stream):
        for packet in self._container.demux(stream):
            fault = next(self._faults, None)
            if fault:
                raise fault(1, "fault", "camera")
            yield packet

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._container.close()


def test_faults_of_a_camera_are_skipped_until_there_are_too_many(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.avi", brighter(), 10, codec="mjpeg")

    def frames_with(*faults):
        with monkeypatch.context() as patched:
            camera = Camera(path, faults)
            patched.setattr(av, "open", lambda *arguments, **options: camera)
            return list(read_frames(path))

    early, broken = av.BlockingIOError, av.InvalidDataError
    assert frames_with(None, early, broken, None, broken)[-1].damaged == 2
    with pytest.raises(VideoError, match="cannot be read beyond frame 1 .*All frames before it were analysed"):
        frames_with(None, OSError)
    monkeypatch.setattr("sdk.video_stream._MOST_FAILURES", 3)
    with pytest.raises(VideoError, match="cannot be read beyond frame 1 "):
        frames_with(None, broken, broken, broken)


def test_the_first_analysis_after_a_loss_has_a_warning(bundle, tmp_path):
    from sdk import Analyzer

    path = damage(tmp_path / "a.avi", [13], write_clip(tmp_path / "sound.avi", brighter(), 10, codec="mjpeg"))
    analyses = list(Analyzer(bundle()).analyze_video(path, tasks=(), sample_fps=5))
    assert [analysis.frame.damaged for analysis in analyses] == [0] * 7 + [1] * 8
    warned = {analysis.frame.index: analysis.warnings for analysis in analyses if analysis.warnings}
    assert warned == {13: ("before this frame 1 damaged packet was skipped; frames are missing there",)}


def test_labels_of_a_damaged_video_are_refused(tmp_path):
    """The numbers of the frames behind the damage no longer fit the labels."""
    path = damage(tmp_path / "a.avi", [13], write_clip(tmp_path / "sound.avi", brighter(), 10, codec="mjpeg"))
    faces = [LabelledFace(f"{n}", path, n, "s", "train", units=frozenset()) for n in (2, 13, 15)]
    pictures = read_pictures(faces)
    assert [round(next(pictures)[1].mean() / 8) for _ in range(2)] == [1, 12]
    with pytest.raises(DataError, match="1 damaged packet was skipped.*copy it again"):
        next(pictures)


@pytest.mark.parametrize(
    ("stamps", "times"),
    [
        ([3, 4, 5, 0, 1, 2], [0, 1, 2, 3, 4, 5]),  # two recordings joined
        ([0, 1, 1, 2, 3], [0, 1, 1.5, 2, 3]),
        ([0, None, None, 3], [0, 1, 2, 3]),
        ([None, None, 7, 8], [0, 1, 2, 3]),
        ([None, None, None], [0, 1, 2]),
        ([0, 1, 5, 6], [0, 1, 5, 6]),  # a pause
        ([0, 1, 900, 2, 3], [0, 1, 900, 901, 902]),
    ],
)
def test_times_increase_when_timestamps_restart_repeat_or_are_missing(stamps, times):
    clock = Times(rate=1)
    assert [clock.next(stamp, None) for stamp in stamps] == times


def test_times_of_decoding_are_used_where_those_of_display_go_back():
    clock = Times(rate=10)
    stamps = [(0.1, 0.1), (0.3, 0.2), (0.4, 0.3), (0.5, 0.4), (0.2, 0.5), (0.7, 0.6), (0.8, 0.7), (0.6, None)]
    times = [clock.next(*pair) for pair in stamps]
    assert times == pytest.approx([0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])


def test_b_frames_in_avi_come_at_their_times(tmp_path):
    """AVI has no times of display: FFmpeg makes them up, in the wrong order."""
    options = {"bf": "3", "b_strategy": "0", "qp": "5"}
    frames = list(read_frames(write_clip(tmp_path / "a.avi", brighter(), 10, options=options)))
    assert [grey(frame) for frame in frames] == list(range(30))
    assert [frame.time_s for frame in frames] == pytest.approx([number / 10 for number in range(30)])


def test_two_recordings_joined_into_one_file(tmp_path):
    """The second one starts again at its own time 0; sampling and --seconds need times that go on."""
    one = write_clip(tmp_path / "one.ts", brighter(20), 10, options=GOP).read_bytes()
    path = tmp_path / "twice.ts"
    path.write_bytes(one + one)
    frames = list(read_frames(path))
    assert [frame.time_s for frame in frames] == pytest.approx([number / 10 for number in range(40)], abs=0.01)
    assert len(list(read_frames(path, sample_fps=5))) == 20


def test_timestamps_that_repeat(tmp_path):
    """Every second frame has the timestamp of the one before."""
    path = tmp_path / "a.mkv"
    sound = write_clip(tmp_path / "sound.avi", brighter(20), 10, codec="mjpeg")
    with av.open(str(sound)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.pts = packet.dts = number // 2 * 2
            packet.stream = stream
            container.mux(packet)
    frames = list(read_frames(path))
    assert [grey(frame) for frame in frames] == list(range(20))
    assert all(0 < after.time_s - before.time_s < 0.21 for before, after in itertools.pairwise(frames))
    assert frames[-1].time_s == pytest.approx(1.9, abs=0.1)


def test_an_annotated_video_takes_times_that_do_not_increase(tmp_path):
    """Two frames at one time: H.264 needs an order, so the second one comes a millisecond later."""
    path, model = tmp_path / "a.mp4", ModelInfo(name="m", digest="d", backend="b", notice="n")
    with AnnotatedVideo(path) as video:
        for index, time_s in enumerate((0.0, 0.1, 0.1, 0.05, 0.2)):
            frame = FrameInfo(index=index, time_s=time_s, dropped=0)
            video.add(brighter()[index], record(frame, model))
    frames = list(read_frames(path))
    assert [round(frame.time_s, 3) for frame in frames] == [0, 0.1, 0.101, 0.102, 0.2]


def record(frame, model):
    return AnalysisRecord(
        faces=(), image_size=(64, 48), source="a", model=model, timing_ms={}, status="no_face", warnings=(), frame=frame
    )

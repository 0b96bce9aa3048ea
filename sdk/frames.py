"""Frames of a video file, a camera or a stream, decoded by PyAV (FFmpeg). Live sources skip to the newest frame."""

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

from sdk.arrays import Pixels
from sdk.errors import DependencyError, VideoError
from sdk.ranges import POSITIVE
from sdk.video_stream import Matrix, VideoStream, displayed

logger = logging.getLogger(__name__)

VideoSource: TypeAlias = "str | os.PathLike[str] | int"

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2"}
    | {".ts", ".mts", ".m2ts", ".m2v", ".vob", ".ogv", ".mxf", ".dv"}
)
_LIVE = ("rtsp://", "rtsps://", "rtmp://", "udp://", "tcp://", "rtp://", "srt://")
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}


@dataclass
class Frame:
    """A frame that was chosen for analysis.

    Attributes:
        index: its number in the source, from 0.
        time_s: its time in seconds from the start of the source; always greater than that of the frame before.
        picture: the PyAV frame.
        pixel_aspect, matrix, reformatter: how it is shown, see `sdk.video_stream.displayed`.
        damaged: number of packets before it that could not be decoded.
        dropped: number of chosen frames before it that were dropped because the analysis was late.
    """

    index: int
    time_s: float
    picture: Any
    pixel_aspect: Fraction
    matrix: Matrix
    reformatter: Any
    damaged: int = 0
    dropped: int = 0

    def pixels(self) -> Pixels:
        """(H, W, 3) uint8 RGB as a player shows it: square pixels, upright, not mirrored."""
        return displayed(self.picture, self.pixel_aspect, self.matrix, self.reformatter)


def read_frames(
    source: VideoSource, *, sample_fps: float | None = None, deadline_s: float | None = None
) -> Iterator[Frame]:
    """Yield frames in order of time.

    Args:
        source: path of a video, number of a camera (0 is the first), or URL. Rtsp, rtmp, rtp, srt, udp and tcp URLs are
            live.
        sample_fps: frames per second of video; None gives every frame.
        deadline_s: drop a frame that is more than this many seconds behind real time.

    Raises:
        VideoError: the source cannot be opened or read, has no frame, or changes its frame size.
        DependencyError: PyAV is not installed.
    """
    POSITIVE.check("sample_fps", sample_fps, VideoError, optional=True)
    POSITIVE.check("deadline_s", deadline_s, VideoError, optional=True)
    stream, live = _open(source)
    frames = _sampled(_decoded(stream), sample_fps)
    return _newest(frames, deadline_s) if live else _in_time(frames, deadline_s)


def skipped_packets(count: int) -> str:
    """The warning about packets that could not be decoded."""
    return f"{count} damaged packet{'s were' if count > 1 else ' was'} skipped; frames are missing there"


def is_url(source: VideoSource) -> bool:
    return isinstance(source, str) and "://" in source


def _open(source: VideoSource) -> tuple[VideoStream, bool]:
    """The stream, and whether the source is live."""
    try:
        import av
    except ImportError:
        raise DependencyError("av", "video", "read videos and cameras") from None
    if not isinstance(source, (int, str, os.PathLike)):
        raise VideoError(f"expected a video file, the number of a camera or a URL, found {type(source).__name__}")
    name = str(source) if isinstance(source, int) else os.fspath(source)
    form, live = None, False
    if name.isdigit() and not Path(name).exists():
        form, pattern = _CAMERAS.get(sys.platform, ("v4l2", "{}"))
        name, live = pattern.format(name), True
    elif is_url(name):
        live = name.startswith(_LIVE)
    elif not Path(name).is_file():
        reason = "is a folder" if Path(name).is_dir() else "does not exist"
        raise VideoError(f"{name} {reason}: expected a video file, the number of a camera, or a URL such as rtsp://...")
    try:
        # without "file:", FFmpeg takes what is before a colon for a protocol
        place = name if form or is_url(name) else f"file:{name}"
        container = av.open(place, "r", format=form, timeout=10.0 if is_url(name) else None)
    except (av.FFmpegError, OSError, ValueError) as error:
        what, reason = ("camera" if form else "source"), str(getattr(error, "strerror", None) or error)
        advice = "it exists and is not in use" if form or is_url(name) else "a player shows it: it may be cut off"
        raise VideoError(f"{what} {name} cannot be opened ({reason}); check that {advice}") from None
    try:
        return VideoStream(container, str(source), live), live
    except VideoError:
        container.close()
        raise


def _decoded(stream: VideoStream) -> Iterator[Frame]:
    """Yield every frame; close the container at the end."""
    import av
    from av.video.reformatter import VideoReformatter

    index, size, name = 0, None, stream.name
    reformatter = VideoReformatter()
    with stream.container:
        try:
            for picture, time_s in stream.pictures():
                found = (picture.width, picture.height)
                if found != (size := size or found):
                    raise VideoError(
                        f"{name}: the frame size changes from {size[0]} x {size[1]} to {found[0]} x {found[1]} at "
                        f"frame {index}; cut the video there. All frames before it were analysed"
                    )
                yield Frame(
                    index, time_s, picture, stream.pixel_aspect, stream.matrix, reformatter, damaged=stream.damaged
                )
                index += 1
        except (av.FFmpegError, OSError) as error:
            raise VideoError(
                f"{name} cannot be read beyond frame {index} ({error}). All frames before it were analysed"
            ) from None
    if stream.damaged:
        logger.warning("%s: %s", name, skipped_packets(stream.damaged))


def _sampled(frames: Iterator[Frame], sample_fps: float | None) -> Iterator[Frame]:
    due = 0.0
    for frame in frames:
        if sample_fps is None:
            yield frame
        elif frame.time_s >= due - 1e-6:
            due = (int(frame.time_s * sample_fps + 1e-6) + 1) / sample_fps
            yield frame


def _in_time(frames: Iterator[Frame], deadline_s: float | None) -> Iterator[Frame]:
    """Yield the frames that are not late; the source starts to play when the first frame is requested."""
    start, dropped = time.monotonic(), 0
    for frame in frames:
        if deadline_s is not None and time.monotonic() - start - frame.time_s > deadline_s:
            dropped += 1
            continue
        frame.dropped = dropped
        yield frame


def _newest(frames: Iterator[Frame], deadline_s: float | None) -> Iterator[Frame]:
    """Read in a thread without pause and yield the newest frame; frames that it replaces are counted as dropped."""
    buffer = _FrameBuffer()
    thread = threading.Thread(target=buffer.fill, args=(frames,), daemon=True, name="emola-camera")
    thread.start()
    try:
        yield from buffer.take(deadline_s)
    finally:
        buffer.closed = True
        thread.join(timeout=5)


class _FrameBuffer:
    """Holds the newest frame between the reading thread and the analysis."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._arrived = 0.0
        self._dropped, self._ended, self.closed = 0, False, False
        self._error: BaseException | None = None

    def fill(self, frames: Iterator[Frame]) -> None:
        try:
            for frame in frames:
                with self._changed:
                    self._dropped += self._frame is not None
                    self._frame, self._arrived = frame, time.monotonic()
                    self._changed.notify()
                if self.closed:
                    return
        except Exception as error:  # `take` raises it in the thread of the analysis
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def take(self, deadline_s: float | None) -> Iterator[Frame]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._frame is not None or self._ended)
                frame, self._frame = self._frame, None
                if frame is None:
                    break
                if deadline_s is not None and time.monotonic() - self._arrived > deadline_s:
                    self._dropped += 1
                    continue
                frame.dropped = self._dropped
            yield frame
        if self._error:
            raise self._error

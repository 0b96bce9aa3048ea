"""Frames of a video file, a camera or a stream, decoded by PyAV (FFmpeg); of a live one only the newest frame waits."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from sdk.arrays import Pixels
from sdk.errors import DependencyError, VideoError

VideoSource: TypeAlias = "str | os.PathLike[str] | int"

_LIVE = ("rtsp://", "rtsps://", "rtmp://", "udp://", "tcp://", "rtp://", "srt://")
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}
_USUAL_RATE = 25.0  # of a stream that does not say when its frames are due


@dataclass
class Frame:
    """A frame that was chosen for analysis.

    Attributes:
        index: its number in the source, from 0.
        time_s: its time in seconds from the start of the source.
        dropped: chosen frames that were left out before it because the analysis was late.
        picture: PyAV's frame.
    """

    index: int
    time_s: float
    picture: Any
    dropped: int = 0

    def pixels(self) -> Pixels:
        """(H, W, 3) uint8 RGB, turned upright by the rotation that phones record."""
        pixels: Pixels = self.picture.to_ndarray(format="rgb24")
        turns = round(self.picture.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def read_frames(
    source: VideoSource, *, sample_fps: float | None = None, deadline_s: float | None = None
) -> Iterator[Frame]:
    """Frames in order of time.

    Args:
        source: path of a video; number of a camera, 0 being the first; URL. rtsp, rtmp, rtp, srt, udp and tcp are live.
        sample_fps: frames per second of video; None gives every frame.
        deadline_s: drop a frame that is later than this against real time when its turn comes.

    Raises:
        VideoError: cannot be opened or read, holds no frame, or changes its frame size.
        DependencyError: PyAV is not installed.
    """
    for name, value in (("sample_fps", sample_fps), ("deadline_s", deadline_s)):
        if value is not None and value <= 0:
            raise VideoError(f"{name} must be greater than 0, not {value}")
    container, live = _open(source)
    frames = _sampled(_decoded(container, str(source)), sample_fps)
    return _newest(frames, deadline_s) if live else _in_time(frames, deadline_s)


def is_url(source: VideoSource) -> bool:
    return isinstance(source, str) and "://" in source


def _open(source: VideoSource) -> tuple[Any, bool]:
    """PyAV's container, and whether it is live."""
    try:
        import av
    except ImportError:
        raise DependencyError("av", "video", "read videos and cameras") from None
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
        container = av.open(name, "r", format=form, timeout=10.0 if is_url(name) else None)
    except (av.FFmpegError, OSError, ValueError) as error:
        what = "camera" if form else "source"
        raise VideoError(f"{what} {name} cannot be opened ({error}); check that it is there and not in use") from None
    if not container.streams.video:
        container.close()
        raise VideoError(f"{name} has no video stream; expected a video")
    return container, live


def _decoded(container: Any, name: str) -> Iterator[Frame]:
    """Every frame; the container is closed at the end."""
    import av

    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    rate = float(stream.average_rate or _USUAL_RATE)
    index, size, start = 0, None, None
    with container:
        try:
            for picture in container.decode(stream):
                found = (picture.width, picture.height)
                if found != (size := size or found):
                    raise VideoError(
                        f"{name}: the frame size changes from {size[0]} x {size[1]} to {found[0]} x {found[1]} at "
                        f"frame {index}; cut the video there. Everything before it was analysed"
                    )
                time_s = index / rate if picture.time is None else picture.time
                start = time_s if start is None else start
                yield Frame(index, time_s - start, picture)
                index += 1
        except (av.FFmpegError, OSError) as error:
            raise VideoError(
                f"{name} cannot be read beyond frame {index} ({error}). Everything before it was analysed"
            ) from None
    if index == 0:
        raise VideoError(f"{name} holds no frame; expected a video of at least one")


def _sampled(frames: Iterator[Frame], sample_fps: float | None) -> Iterator[Frame]:
    due = 0.0
    for frame in frames:
        if sample_fps is None:
            yield frame
        elif frame.time_s >= due - 1e-6:
            due = (int(frame.time_s * sample_fps + 1e-6) + 1) / sample_fps
            yield frame


def _in_time(frames: Iterator[Frame], deadline_s: float | None) -> Iterator[Frame]:
    """Those that are not late, as if the source had started to play when the first frame was asked for."""
    start, dropped = time.monotonic(), 0
    for frame in frames:
        if deadline_s is not None and time.monotonic() - start - frame.time_s > deadline_s:
            dropped += 1
            continue
        frame.dropped = dropped
        yield frame


def _newest(frames: Iterator[Frame], deadline_s: float | None) -> Iterator[Frame]:
    """Read without pause in a thread and hand out the newest frame; what it replaces is counted as dropped."""
    box = _Mailbox()
    thread = threading.Thread(target=box.fill, args=(frames,), daemon=True, name="emola-camera")
    thread.start()
    try:
        yield from box.take(deadline_s)
    finally:
        box.closed = True
        thread.join(timeout=5)


class _Mailbox:
    """Room for one frame."""

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
        except Exception as error:  # it belongs to the thread that takes
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

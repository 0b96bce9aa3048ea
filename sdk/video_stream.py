"""The video stream of a file or camera: which one is shown, its pictures as they are shown, and their times."""

import math
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from sdk.arrays import Pixels
from sdk.errors import VideoError

Matrix: TypeAlias = tuple[float, float, float, float]

_UPRIGHT: Matrix = (1.0, 0.0, 0.0, 1.0)
_FULL_HD = 1920 * 1088  # pixels
_DEFAULT_RATE = 25.0  # frames per second, for streams that do not record it
_HIGHEST_RATE = 1000.0  # a higher recorded rate is a time base, not a rate
_WIDEST = 5  # pixels that are recorded as wider or narrower than this are taken as square; real ones stay below 3.3
_ITU601, _FULL_RANGE = 5, 2  # SWS_CS_ITU601, AVCOL_RANGE_JPEG
_LONGEST_WAIT_S = 10.0  # for the next packet of a camera
_MOST_FAILURES = 1000  # in a row; a file ends by itself, but a camera and a lost place in a file do not


class VideoStream:
    """Decodes the stream that a player shows.

    The stream is the default one, or else the largest; a cover picture is none. A packet that cannot be decoded is
    skipped and counted, as FFmpeg does it.

    Args:
        container: an open PyAV container.
        name: its name in messages.
        live: it is a camera or a live stream, which does not end by itself.

    Attributes:
        damaged: number of packets so far that could not be decoded.
        pixel_aspect: width of a pixel over its height.
        matrix: how the last frame is shown, see `displayed`.

    Raises:
        VideoError: there is no such stream.
    """

    def __init__(self, container: Any, name: str, live: bool) -> None:
        self.container, self.name, self.live, self.damaged = container, name, live, 0
        self._stream = _shown(container, name)
        # Threads that decode several frames at once lose good frames next to a damaged packet and make a camera late.
        self._stream.thread_type = "SLICE" if self._stream.width * self._stream.height <= _FULL_HD else "AUTO"
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        self.pixel_aspect = aspect if Fraction(1, _WIDEST) <= aspect <= _WIDEST else Fraction(1)
        self.matrix = _UPRIGHT
        self._failures, self._last_error = 0, ""  # failures since the last picture

    def pictures(self) -> Iterator[tuple[Any, float]]:
        """Yield each PyAV frame with its time: seconds from the first frame, always increasing.

        Raises:
            av.FFmpegError, OSError: the source cannot be read further; frames that were read before it are yielded.
            VideoError: no packet can be decoded; of a live source, none of the last 1000.
        """
        import av

        stream, failure = self._stream, None
        # AVI records no time of display, and what FFmpeg puts in its place is wrong where there are B-frames.
        times = Times(_rate(stream), by_decoding="avi" in self.container.format.name)
        unit, count = float(stream.time_base), 0
        packets = self._packets()
        while packets:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                packet, failure = None, error
            for picture in self._decode(packet):  # None: what the decoder still holds
                # H.264 records the matrix with a key frame for all that follow; FFmpeg hands it on with that one only
                before = _UPRIGHT if picture.key_frame else self.matrix
                self.matrix = _display_matrix(picture) or before
                stamps = (None if stamp is None else stamp * unit for stamp in (picture.pts, picture.dts))
                yield picture, times.next(*stamps)
                count += 1
            if packet is None:
                break
        if failure:
            raise failure
        if count == 0:
            reason = f": none of its {self.damaged} packets can be decoded ({self._last_error})" if self.damaged else ""
            raise VideoError(f"{self.name} holds no frame{reason}; expected a video with at least one frame")

    def _packets(self) -> Iterator[Any]:
        """Yield the packets that hold data; one without would end the decoder. Damaged places are skipped."""
        import av

        arrived, failures = time.monotonic(), 0
        while True:
            try:
                for packet in self.container.demux(self._stream):
                    arrived, failures = time.monotonic(), 0
                    if packet.size:
                        yield packet
                return
            except av.InvalidDataError:
                self.damaged, failures = self.damaged + 1, failures + 1
                if failures >= _MOST_FAILURES:
                    raise
            except av.BlockingIOError:  # a camera has no new frame yet
                if time.monotonic() - arrived > _LONGEST_WAIT_S:
                    raise
                time.sleep(0.005)

    def _decode(self, packet: Any) -> list[Any]:
        """The frames that the decoder gives after this packet; None asks for all that it still holds."""
        import av

        try:
            pictures: list[Any] = self._stream.codec_context.decode(packet)
        except av.FFmpegError as error:
            self.damaged, self._failures, self._last_error = self.damaged + 1, self._failures + 1, str(error)
            if self.live and self._failures >= _MOST_FAILURES:
                raise VideoError(
                    f"{self.name}: the last {self._failures} packets cannot be decoded ({error}); check it with a "
                    "player. All frames before them were analysed"
                ) from None
            return []
        self._failures = 0 if pictures else self._failures
        return pictures


def _shown(container: Any, name: str) -> Any:
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    videos = [stream for stream in streams if Disposition.attached_pic not in Disposition(stream.disposition)]
    if videos:
        return max(videos, key=lambda s: (Disposition.default in Disposition(s.disposition), s.width * s.height))
    found = ""
    if streams:
        found = ", only a cover picture"
    elif len(container.streams.video):
        found = " that this FFmpeg has a decoder for"
    raise VideoError(f"{name} has no video stream{found}; expected a video")


def _rate(stream: Any) -> float:
    """Frames per second."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate and 0 < rate <= _HIGHEST_RATE:
            return float(rate)
    return _DEFAULT_RATE


class Times:
    """Times that increase from 0, also where the timestamps of the file are missing, repeat or start again.

    Args:
        rate: frames per second, for frames whose timestamp is of no use.
        by_decoding: use the times of decoding. This also happens as soon as they are better than the times of display.
    """

    def __init__(self, rate: float, *, by_decoding: bool = False) -> None:
        self._step, self._by_decoding, self._offset = 1 / rate, by_decoding, 0.0
        self._time: float | None = None
        self._stamp: float | None = None
        self._last: tuple[float | None, float | None] = (None, None)

    def next(self, pts: float | None, dts: float | None) -> float:
        """The time of the next frame in seconds.

        Args:
            pts, dts: its times of display and of decoding in seconds; None where they are not recorded.
        """
        (last_pts, last_dts), self._last = self._last, (pts, dts)
        last, before = self._time, self._stamp
        after = 0.0 if last is None else last + self._step
        if not self._by_decoding and _increases(last_dts, dts) and not _increases(last_pts, pts):
            self._by_decoding, before = True, None
        self._stamp = stamp = dts if self._by_decoding else pts
        if stamp is None:
            self._stamp, self._time = before, after
            return after
        if before is None or before - stamp > max(0.1, 2 * self._step):  # the timestamps start (again)
            self._offset = after - stamp
        time_s = stamp + self._offset
        self._time = time_s if last is None or time_s > last else last + self._step / 2
        return self._time


def _increases(last: float | None, stamp: float | None) -> bool:
    return last is not None and stamp is not None and stamp > last


def displayed(picture: Any, pixel_aspect: Fraction, matrix: Matrix, reformatter: Any) -> Pixels:
    """The picture as a player shows it: (H, W, 3) uint8 RGB with square pixels, upright, not mirrored.

    Args:
        picture: a PyAV frame.
        pixel_aspect: width of a stored pixel over its height.
        matrix: (a, b, c, d): the stored point (x, y) is shown at (a x + c y, b x + d y).
        reformatter: PyAV's; one for all frames of a source, because it takes longer to prepare than to convert.

    Raises:
        VideoError: FFmpeg cannot convert the colours of the frame.
    """
    width = max(1, int(picture.width * pixel_aspect))
    try:
        converted = reformatter.reformat(
            picture,
            format="rgb24",
            width=width,
            interpolation="BICUBIC",
            # PyAV before 17 reads BT.709 as BT.601 unless it is told both sides.
            src_colorspace=int(picture.colorspace),
            dst_colorspace=_ITU601,
            src_color_range=int(picture.color_range),
            dst_color_range=_FULL_RANGE,
        )
        pixels: Pixels = converted.to_ndarray()
    except (OSError, ValueError) as error:  # for instance YCgCo
        raise VideoError(
            f"FFmpeg cannot convert frames of {picture.format.name} with colour matrix {int(picture.colorspace)} to "
            f"RGB ({error}); convert the video to H.264 first"
        ) from None
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _display_matrix(picture: Any) -> Matrix | None:
    """The display matrix of a frame, if it has one; see `displayed`."""
    try:
        data = picture.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18 does not know all kinds of side data; the rotation alone is still there
        turn = math.radians(-picture.rotation)
        return math.cos(turn), math.sin(turn), -math.sin(turn), math.cos(turn)
    if data is None:
        return None
    matrix = np.frombuffer(bytes(data), np.int32).astype(float)  # 3 x 3, row by row, in 1/65536
    return matrix[0], matrix[1], matrix[3], matrix[4]

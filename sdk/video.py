"""Analyse a video frame by frame. Faces keep their ids, and the model reads a face again only when it changes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from types import NoneType

from sdk.arrays import Floats, Pixels
from sdk.errors import VideoError
from sdk.examine import Examiner, Reading, Request
from sdk.faces.crop import FaceCrop
from sdk.faces.follow import Follower
from sdk.faces.track import Track, Tracker, appearance, motion
from sdk.frames import Frame, skipped_packets
from sdk.ranges import COUNT, FROM_0
from sdk.results import Analysis, FrameInfo
from sdk.runtime.clock import Clock


@dataclass(frozen=True)
class Freshness:
    """Thresholds for a changed face.

    Attributes:
        landmark_motion: largest mean motion of the landmarks over their spread (see `sdk.faces.track.motion`); used if
            the bundle's landmarks are coordinates.
        looks_distance: largest distance in appearance, 0..2: 1 minus the similarity (see `sdk.faces.track.appearance`).
        stale_s: largest age of a reading in seconds.
        patience_s: longest absence in seconds after which a face keeps its id.

    Raises:
        VideoError: a threshold is not a finite number from 0.
    """

    landmark_motion: float = 0.03
    looks_distance: float = 0.1
    stale_s: float = 10.0
    patience_s: float = 2.0

    def __post_init__(self) -> None:
        for threshold in fields(self):
            FROM_0.check(threshold.name, getattr(self, threshold.name), VideoError)


@dataclass
class _LastReading:
    """The last reading of a track, and the appearance and time of the face that was read."""

    reading: Reading
    appearance: Floats
    time_s: float


def watch(
    examiner: Examiner,
    frames: Iterable[Frame],
    source: str,
    request: Request,
    freshness: Freshness | None = None,
    detect_every: int = 1,
) -> Iterator[tuple[Pixels, Analysis]]:
    """Yield each frame, (H, W, 3) uint8 RGB, and its analysis; see `Analyzer.analyze_video`.

    Args:
        source: name of the source of the frames.
    """
    COUNT.check("detect_every", detect_every, VideoError)
    if not isinstance(freshness, (Freshness, NoneType)):
        raise VideoError(f"freshness must be a sdk.video.Freshness, not {freshness!r:.60}")
    analyzer = _FrameAnalyzer(examiner, request, freshness or Freshness(), source, detect_every)
    return ((pixels, analyzer.analyze(frame, pixels)) for frame in frames for pixels in [frame.pixels()])


class _FrameAnalyzer:
    """Analyses frames and keeps the readings of faces between them."""

    def __init__(
        self, examiner: Examiner, request: Request, freshness: Freshness, source: str, detect_every: int
    ) -> None:
        self._examiner, self._request, self._freshness, self._source = examiner, request, freshness, source
        self._tracker = Tracker(freshness.patience_s)
        self._detect_every, self._followed = detect_every, 0
        self._follower = Follower(examiner.detect, examiner.searched_pixels) if detect_every > 1 else None
        self._last: dict[int, _LastReading] = {}
        self._damaged = 0

    def analyze(self, frame: Frame, pixels: Pixels) -> Analysis:
        self._request.check_cancel()
        clock = Clock()
        crops = self._find(pixels, clock)
        with clock("track"):
            appearances = [appearance(crop.pixels) for crop, _ in crops]
            tracks = self._tracker.update([crop.box_xyxy for crop, _ in crops], appearances, frame.time_s)
        found, fresh = [], []
        for (crop, score), track in zip(crops, tracks, strict=True):
            last, points = self._read(track, crop, frame.time_s, clock)
            if last.time_s == frame.time_s:
                fresh.append(last.reading)
            age_ms = 1000 * (frame.time_s - last.time_s)
            reading = Reading(points, last.reading.answers, last.reading.scores)
            found.append(self._examiner.face(track.id, crop, score, reading, self._request, age_ms))
        self._forget(frame.time_s)
        size = (pixels.shape[1], pixels.shape[0])
        info = FrameInfo(index=frame.index, time_s=frame.time_s, dropped=frame.dropped, damaged=frame.damaged)
        analysis = self._examiner.analysis(found, size, self._source, clock, fresh, self._request, info, pixels)
        return analysis.model_copy(update={"warnings": (*self._damage(frame), *analysis.warnings)})

    def _find(self, pixels: Pixels, clock: Clock) -> list[tuple[FaceCrop, float | None]]:
        """Detect the faces in every n-th frame and where one was lost; follow them in the other frames."""
        if self._follower is None:
            return self._examiner.find(pixels, "detect", clock)
        if 0 < self._followed < self._detect_every:
            with clock("track"):
                boxes = self._follower.follow(pixels)
            if boxes is not None:
                self._followed += 1
                return [(crop, None) for crop in self._examiner.cut(pixels, boxes, clock)]
        found = self._examiner.find(pixels, "detect", clock)
        self._follower.start(crop.box_xyxy for crop, _ in found)
        self._followed = 1
        return found

    def _damage(self, frame: Frame) -> Iterator[str]:
        """Warnings about what is damaged in this frame and between the last analysed frame and this one."""
        if frame.damaged > self._damaged:
            yield f"before this frame {skipped_packets(frame.damaged - self._damaged)}"
            self._damaged = frame.damaged
        if frame.picture.is_corrupt:
            yield "parts of this frame are damaged; the decoder filled them from other frames"

    def _read(self, track: Track, crop: FaceCrop, now: float, clock: Clock) -> tuple[_LastReading, Floats]:
        """The reading of a face, renewed if the face changed, and its landmark features in this frame."""
        features = self._examiner.pipeline.landmark_features(crop, clock)
        last = self._last.get(track.id)
        if last is None or self._has_changed(last, track, features, now):
            reading = self._examiner.read(crop, self._request, clock, features)
            last = self._last[track.id] = _LastReading(reading, track.appearance, now)
        return last, features

    def _has_changed(self, last: _LastReading, track: Track, features: Floats, now: float) -> bool:
        limits, distance = self._freshness, 1 - float(last.appearance @ track.appearance)
        if now - last.time_s >= limits.stale_s or distance > limits.looks_distance:
            return True
        coordinates = self._examiner.pipeline.manifest.preprocessing.landmark_mode == "insightface"
        return coordinates and motion(features, last.reading.features) > limits.landmark_motion

    def _forget(self, now: float) -> None:
        """Drop the readings of ended tracks, so that a camera can run for days."""
        alive = {track.id for track in self._tracker.alive(now)}
        self._last = {number: last for number, last in self._last.items() if number in alive}

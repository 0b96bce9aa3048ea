"""A video frame by frame: faces keep their ids, and a face is read again only when it has changed."""

from collections.abc import Iterator
from dataclasses import dataclass

from sdk.arrays import Floats, Pixels
from sdk.examine import Examiner, Reading, Request
from sdk.faces.crop import FaceCrop
from sdk.faces.track import Track, Tracker, looks, motion
from sdk.frames import Frame, VideoSource, read_frames
from sdk.results import Analysis, FrameInfo
from sdk.runtime.clock import Clock


@dataclass(frozen=True)
class Freshness:
    """When a face counts as changed.

    Attributes:
        landmark_motion: mean way of the landmarks over their spread (see `sdk.faces.track.motion`), where the bundle's
            landmarks are coordinates.
        looks_distance: 1 less the similarity of looks, 0..2.
        stale_s: a reading older than this is renewed in any case.
        patience_s: a face that was away for longer gets a new id.
    """

    landmark_motion: float = 0.03
    looks_distance: float = 0.1
    stale_s: float = 10.0
    patience_s: float = 2.0


@dataclass
class _Memory:
    """What is known about a track: its last reading, and how the face looked then."""

    reading: Reading
    looks: Floats
    time_s: float


def watch(
    examiner: Examiner,
    source: VideoSource,
    request: Request,
    *,
    freshness: Freshness | None = None,
    sample_fps: float | None = None,
    deadline_s: float | None = None,
) -> Iterator[tuple[Pixels, Analysis]]:
    """Each analysed frame, (H, W, 3) uint8 RGB, and its analysis; see `Analyzer.analyze_video`."""
    frames = read_frames(source, sample_fps=sample_fps, deadline_s=deadline_s)
    watcher = _Watcher(examiner, request, freshness or Freshness(), str(source))
    return ((pixels, watcher.look_at(frame, pixels)) for frame in frames for pixels in [frame.pixels()])


class _Watcher:
    """Remembers faces between frames."""

    def __init__(self, examiner: Examiner, request: Request, freshness: Freshness, source: str) -> None:
        self._examiner, self._request, self._freshness, self._source = examiner, request, freshness, source
        self._tracker = Tracker(freshness.patience_s)
        self._memories: dict[int, _Memory] = {}

    def look_at(self, frame: Frame, pixels: Pixels) -> Analysis:
        self._request.check_cancel()
        clock = Clock()
        crops = self._examiner.find(pixels, "detect", clock)
        with clock("track"):
            appearances = [looks(crop.pixels) for crop, _ in crops]
            tracks = self._tracker.update([crop.box_xyxy for crop, _ in crops], appearances, frame.time_s)
        found, fresh = [], []
        for (crop, score), track in zip(crops, tracks, strict=True):
            memory, points = self._recall(track, crop, frame.time_s, clock)
            if memory.time_s == frame.time_s:
                fresh.append(memory.reading)
            age_ms = 1000 * (frame.time_s - memory.time_s)
            reading = Reading(points, memory.reading.answers, memory.reading.scores)
            found.append(self._examiner.face(track.id, crop, score, reading, self._request, age_ms))
        self._forget(frame.time_s)
        size = (pixels.shape[1], pixels.shape[0])
        info = FrameInfo(index=frame.index, time_s=frame.time_s, dropped=frame.dropped)
        return self._examiner.analysis(found, size, self._source, clock, fresh, self._request, info)

    def _recall(self, track: Track, crop: FaceCrop, now: float, clock: Clock) -> tuple[_Memory, Floats]:
        """The reading of a face, made anew if the old one no longer fits, and its landmark features in this frame."""
        features = self._examiner.pipeline.landmark_features(crop, clock)
        memory = self._memories.get(track.id)
        if memory is None or self._changed(memory, track, features, now):
            reading = self._examiner.read(crop, self._request, clock, features)
            memory = self._memories[track.id] = _Memory(reading, track.looks, now)
        return memory, features

    def _changed(self, memory: _Memory, track: Track, features: Floats, now: float) -> bool:
        fresh = self._freshness
        if now - memory.time_s >= fresh.stale_s or 1 - float(memory.looks @ track.looks) > fresh.looks_distance:
            return True
        coordinates = self._examiner.pipeline.manifest.preprocessing.landmark_mode == "insightface"
        return coordinates and motion(features, memory.reading.features) > fresh.landmark_motion

    def _forget(self, now: float) -> None:
        """Drop the readings of tracks that will not come back, so that a camera can run for days."""
        alive = {track.id for track in self._tracker.alive(now)}
        self._memories = {track: memory for track, memory in self._memories.items() if track in alive}

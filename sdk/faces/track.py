"""Which face is which from frame to frame, and whether it has changed: position, looks and landmarks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sdk.arrays import Floats, Pixels
from sdk.faces.crop import Box

_SIDE = 16
_SURE, _LIKELY = 0.85, 0.65  # least similarity of looks to be the same face: anywhere, or where the face was before
_OVERLAP = 0.3  # intersection over union that counts as "where it was before"


def looks(crop: Pixels) -> Floats:
    """A unit vector of what a face crop looks like: its 16 x 16 pixels less their mean.

    Args:
        crop: (H, W, 3) uint8 RGB.

    Returns:
        (768,) float32. The dot product of two is their similarity in -1..1: near 1 for one face in two frames.
    """
    small = np.asarray(Image.fromarray(crop).resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32).ravel()
    small = small - small.mean()
    vector: Floats = small / max(float(np.linalg.norm(small)), 1e-6)
    return vector


def motion(features: Floats, earlier: Floats) -> float:
    """How far the landmarks moved within the face: mean distance over the spread of the points, 0 = not at all.

    Args:
        features, earlier: (212,) coordinates; where and how large the face is makes no difference.
    """
    return float(np.linalg.norm(_shape(features) - _shape(earlier), axis=1).mean())


def _shape(features: Floats) -> Floats:
    points = features.reshape(-1, 2)
    points = points - points.mean(0)
    shape: Floats = points / max(float(np.sqrt((points**2).sum(1).mean())), 1e-6)
    return shape


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@dataclass
class Track:
    """One face over time.

    Attributes:
        id: 0, 1, 2 ... in the order of appearance; never given twice.
        box: where it was seen last.
        looks: what it looked like then; see `looks`.
        time_s: when that was.
    """

    id: int
    box: Box
    looks: Floats
    time_s: float


class Tracker:
    """Carries ids from frame to frame: what looks alike is the same face, and where it was before helps.

    Args:
        patience_s: a face that was away for longer gets a new id.
    """

    def __init__(self, patience_s: float = 2.0) -> None:
        self._patience_s = patience_s
        self._tracks: list[Track] = []
        self._next = 0

    def update(self, boxes: Sequence[Box], appearances: Sequence[Floats], time_s: float) -> list[Track]:
        """The track of each face of the next frame."""
        self._tracks = self.alive(time_s)
        matched = self._match(boxes, appearances)
        found = []
        for index, (box, look) in enumerate(zip(boxes, appearances, strict=True)):
            track = matched.get(index)
            if track is None:
                track = Track(self._next, box, look, time_s)
                self._next += 1
                self._tracks.append(track)
            track.box, track.looks, track.time_s = box, look, time_s
            found.append(track)
        return found

    def alive(self, time_s: float) -> list[Track]:
        """Tracks that a face of a frame at this time may still belong to."""
        return [track for track in self._tracks if time_s - track.time_s <= self._patience_s]

    def _match(self, boxes: Sequence[Box], appearances: Sequence[Floats]) -> dict[int, Track]:
        """Pairs, the most similar first; a face and a track are used once."""
        pairs = []
        for index, (box, look) in enumerate(zip(boxes, appearances, strict=True)):
            for track in self._tracks:
                alike, shared = float(look @ track.looks), overlap(box, track.box)
                if alike >= (_LIKELY if shared >= _OVERLAP else _SURE):
                    pairs.append((alike + shared / 2, index, track))
        matched: dict[int, Track] = {}
        taken: set[int] = set()
        for _, index, track in sorted(pairs, key=lambda pair: -pair[0]):
            if index not in matched and track.id not in taken:
                matched[index] = track
                taken.add(track.id)
        return matched

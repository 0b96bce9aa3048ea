"""Track faces from frame to frame by position and appearance, and measure how far their landmarks move."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sdk.arrays import Floats, Pixels
from sdk.faces.crop import Box

_SIDE = 16
_MIN_SIMILARITY = 0.85  # of the appearance, for a face that appears anywhere
_MIN_SIMILARITY_IN_PLACE = 0.65  # for a face whose box overlaps the last one of the track
_MIN_OVERLAP = 0.3  # intersection over union that counts as the same place


def appearance(crop: Pixels) -> Floats:
    """A unit vector that describes the appearance of a face crop: its 16 x 16 pixels less their mean.

    Args:
        crop: (H, W, 3) uint8 RGB.

    Returns:
        (768,) float32. The dot product of two vectors is a similarity in -1..1, near 1 for one face in two frames.
    """
    small = np.asarray(Image.fromarray(crop).resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32).ravel()
    small = small - small.mean()
    vector: Floats = small / max(float(np.linalg.norm(small)), 1e-6)
    return vector


def motion(features: Floats, earlier: Floats) -> float:
    """Motion of the landmarks within the face: mean distance over the spread of the points; 0 means no motion.

    Args:
        features, earlier: (212,) coordinates; position and size of the face do not matter.
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
        id: 0, 1, 2 ... in order of the first frame; never used twice.
        box: last box of the face.
        appearance: last appearance of the face; see `appearance`.
        time_s: time of the last frame with the face.
    """

    id: int
    box: Box
    appearance: Floats
    time_s: float


class Tracker:
    """Gives faces ids that last from frame to frame: by appearance, with a bonus for the same place.

    Args:
        patience_s: longest absence in seconds after which a face keeps its id.
    """

    def __init__(self, patience_s: float = 2.0) -> None:
        self._patience_s = patience_s
        self._tracks: list[Track] = []
        self._next = 0

    def update(self, boxes: Sequence[Box], appearances: Sequence[Floats], time_s: float) -> list[Track]:
        """Find or start the track of each face in the next frame."""
        self._tracks = self.alive(time_s)
        matched = self._match(boxes, appearances)
        found = []
        for index, (box, vector) in enumerate(zip(boxes, appearances, strict=True)):
            track = matched.get(index)
            if track is None:
                track = Track(self._next, box, vector, time_s)
                self._next += 1
                self._tracks.append(track)
            track.box, track.appearance, track.time_s = box, vector, time_s
            found.append(track)
        return found

    def alive(self, time_s: float) -> list[Track]:
        """Tracks that have not ended at this time."""
        return [track for track in self._tracks if time_s - track.time_s <= self._patience_s]

    def _match(self, boxes: Sequence[Box], appearances: Sequence[Floats]) -> dict[int, Track]:
        """Pair faces with tracks, the most similar first; each face and each track is used once."""
        pairs = []
        for index, (box, vector) in enumerate(zip(boxes, appearances, strict=True)):
            for track in self._tracks:
                similarity, shared = float(vector @ track.appearance), overlap(box, track.box)
                if similarity >= (_MIN_SIMILARITY_IN_PLACE if shared >= _MIN_OVERLAP else _MIN_SIMILARITY):
                    pairs.append((similarity + shared / 2, index, track))
        matched: dict[int, Track] = {}
        taken: set[int] = set()
        for _, index, track in sorted(pairs, key=lambda pair: -pair[0]):
            if index not in matched and track.id not in taken:
                matched[index] = track
                taken.add(track.id)
        return matched

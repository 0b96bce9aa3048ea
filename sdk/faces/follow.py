"""Follow faces from frame to frame without a detector, by dlib's correlation tracker.

Source of the method: Danelljan et al. 2014, "Accurate Scale Estimation for Robust Visual Tracking".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sdk.arrays import Pixels
from sdk.errors import DependencyError
from sdk.faces.crop import Box

_MIN_PEAK = 7.0  # peak of the correlation over its surroundings, in standard deviations; below it a face is lost


class Follower:
    """Follows the faces of the last detection.

    Raises:
        DependencyError: dlib is not installed.
    """

    def __init__(self) -> None:
        try:
            import dlib
        except ImportError:
            raise DependencyError("dlib-bin", "faces", "follow faces between detections") from None
        self._dlib = dlib
        self._trackers: list[Any] = []

    def start(self, image: Pixels, boxes: Sequence[Box]) -> None:
        """Follow these boxes of an (H, W, 3) uint8 RGB picture from now on."""
        self._trackers = [self._dlib.correlation_tracker() for _ in boxes]
        for tracker, box in zip(self._trackers, boxes, strict=True):
            tracker.start_track(np.ascontiguousarray(image), self._dlib.drectangle(*box))

    def follow(self, image: Pixels) -> list[Box] | None:
        """The boxes in the next frame, in the same order; None if a face was lost, so that a detector must look."""
        image = np.ascontiguousarray(image)
        if any(tracker.update(image) < _MIN_PEAK for tracker in self._trackers):
            return None
        places = [tracker.get_position() for tracker in self._trackers]
        return [(place.left(), place.top(), place.right(), place.bottom()) for place in places]

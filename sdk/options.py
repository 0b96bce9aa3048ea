"""Options that `Analyzer` hands on as they are; those of `Analyzer.analyze` have the same meaning here."""

from collections.abc import Sequence
from threading import Event
from typing import TYPE_CHECKING, Literal, TypedDict

from sdk.examine import Asked, Faces

if TYPE_CHECKING:
    from sdk.video import Freshness

Color = Literal["rgb", "bgr"]


class FaceOptions(TypedDict, total=False):
    """Of `ask` and `stream`."""

    faces: Faces
    color: Color | None
    cancel: Event | None


class BatchOptions(TypedDict, total=False):
    """Of a batch.

    Attributes:
        batch_size: faces that are decoded at once, 8 by default.
        keep_going: a picture that cannot be read becomes an Analysis with status "failed" and the reason in `warnings`,
            instead of an ImageError.
    """

    tasks: Sequence[Asked]
    faces: Faces
    color: Color | None
    max_new_tokens: int | None
    cancel: Event | None
    batch_size: int
    keep_going: bool


class VideoOptions(TypedDict, total=False):
    """Of a video.

    Attributes:
        sample_fps: frames to analyse per second of video; None takes every frame.
        deadline_s: a frame that is later than this against real time when its turn comes is dropped and counted; None
            drops none of a file's. Of a camera or live stream only the newest frame waits, whatever this says.
        freshness: when a face counts as changed; see `sdk.video.Freshness`.
    """

    tasks: Sequence[Asked]
    max_new_tokens: int | None
    cancel: Event | None
    sample_fps: float | None
    deadline_s: float | None
    freshness: "Freshness"

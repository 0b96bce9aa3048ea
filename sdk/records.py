"""The recorded data of an analysis; `sdk.results.Analysis` adds tables and drawings."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, PlainSerializer

from sdk.faba.answers import ActionUnitReading, EmotionReading
from sdk.faces.crop import Box
from sdk.printable import json_text

SCHEMA_VERSION: Literal["1.0"] = "1.0"


def _in_utf8(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


# Text with file names; what is not UTF-8 in a name has escapes in JSON, which otherwise could not hold it.
_Text = Annotated[str, PlainSerializer(_in_utf8, when_used="json")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class HeadPose(_Frozen):
    """How a head is turned, in degrees, as the picture shows it.

    Attributes:
        yaw: positive where the face turns to the right of the picture.
        pitch: positive where it looks up.
        roll: positive where the head leans anticlockwise.
    """

    yaw: float
    pitch: float
    roll: float


class Face(_Frozen):
    """One face of a picture.

    Attributes:
        id: 0, 1, 2 ... from left to right in a picture; in a video the number of the track, which stays with the face.
        box_xyxy: left, top, right, bottom in float pixels of the original picture; may reach beyond it.
        detection_score: score of the detector; higher is more certain. None with faces="aligned", and in a video where
            the face was followed from an earlier frame.
        landmarks: 106 points (x, y) in pixels of the original picture, in the order of the bundle's landmark network
            (insightface's; in the packaged model Multi-PIE's 68 and 38 more). None where the landmark features are not
            coordinates (mode "emola").
        head_pose: how the head is turned, from the landmarks; None without them.
        eye_openness: height over width of the left and the right eye of the picture, from the landmarks: about 0.3 for
            open eyes, below 0.1 for shut ones; None without landmarks.
        emotion: None if the task was not requested.
        action_units: every unit that the answer mentions; None if the task was not requested.
        action_units_text: the full answer; None if the task was not requested.
        action_unit_scores: "AU4" -> probability in 0..1 that the model lists the unit; None if not requested.
        age_ms: video only: age of the reading at this frame in milliseconds; 0 if the face was read in this frame.
    """

    id: int
    box_xyxy: Box
    detection_score: float | None
    landmarks: tuple[tuple[float, float], ...] | None
    emotion: EmotionReading | None
    action_units: tuple[ActionUnitReading, ...] | None
    action_units_text: str | None
    action_unit_scores: dict[str, float] | None = None
    age_ms: float | None = None
    head_pose: HeadPose | None = None
    eye_openness: tuple[float, float] | None = None


class ModelInfo(_Frozen):
    """The model that made an analysis.

    Attributes:
        name, digest: name and digest of the bundle.
        backend: the variant that ran, e.g. "ort-int4".
        notice: sentence to show with every result, or None.
    """

    name: str
    digest: str
    backend: str
    notice: str | None


class FrameInfo(_Frozen):
    """The position of a frame in a video.

    Attributes:
        index: number of the frame in the source, from 0.
        time_s: its time in seconds from the start of the source; it increases from frame to frame.
        dropped: number of frames dropped so far because the analysis was late.
        damaged: number of packets of the video so far that could not be decoded and were skipped.
    """

    index: int
    time_s: float
    dropped: int
    damaged: int = 0


class AnalysisRecord(_Frozen):
    """The fields of an analysis; see `sdk.results.Analysis`."""

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    faces: tuple[Face, ...]
    image_size: tuple[int, int]
    source: _Text
    model: ModelInfo
    timing_ms: dict[str, float]
    tokens_per_second: float | None = None
    status: Literal["ok", "no_face", "truncated", "failed"]
    warnings: tuple[_Text, ...]
    score_calibration: Literal["temperature", "uncalibrated"] | None = None
    frame: FrameInfo | None = None

    def to_dict(self) -> dict[str, Any]:
        """The analysis as dicts, lists, strings and numbers."""
        return self.model_dump(mode="json")

    def to_json(self, indent: int | None = None) -> str:
        """The analysis as JSON on one line, or with lines indented by `indent` spaces and lists of numbers on one."""
        return self.model_dump_json() if indent is None else json_text(self.to_dict(), indent)

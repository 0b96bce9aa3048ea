"""What an analysis returns: frozen records, with a JSON schema for free (`Analysis.model_json_schema()`)."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sdk.faba.answers import ActionUnitReading, EmotionReading
from sdk.faces.crop import Box

__all__ = ["ActionUnitReading", "Analysis", "EmotionReading", "Face", "ModelInfo"]

SCHEMA_VERSION: Literal["1.0"] = "1.0"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Face(_Record):
    """One face of a picture.

    Attributes:
        id: 0, 1, 2 ... from left to right in the picture.
        box_xyxy: left, top, right, bottom in float pixels of the original picture; may reach beyond it.
        detection_score: the detector's own score, higher is surer; None with faces="aligned".
        landmarks: 106 points (x, y) in pixels of the original picture, in insightface's order; None where the model's
            landmark feature is no coordinate (mode "emola").
        emotion: None when that task was not asked.
        action_units: every unit that the answer mentions; None when that task was not asked.
        action_units_text: the answer in full; None when that task was not asked.
    """

    id: int
    box_xyxy: Box
    detection_score: float | None
    landmarks: tuple[tuple[float, float], ...] | None
    emotion: EmotionReading | None
    action_units: tuple[ActionUnitReading, ...] | None
    action_units_text: str | None


class ModelInfo(_Record):
    """Which model spoke.

    Attributes:
        name, digest: of the bundle.
        backend: the variant that ran, e.g. "ort-int4".
        notice: what must be said wherever the result is shown, or None.
    """

    name: str
    digest: str
    backend: str
    notice: str | None


class Analysis(_Record):
    """Everything about one picture.

    Attributes:
        faces: from left to right; empty when none was found.
        image_size: width, height in pixels, after the EXIF orientation.
        source: the path that was given, or a word for what else it was.
        model: which model spoke.
        timing_ms: wall time per stage, over all faces.
        status: "ok"; "no_face"; "truncated" when a token budget cut an answer off.
        warnings: one sentence for each thing that a reader should know.
    """

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    faces: tuple[Face, ...]
    image_size: tuple[int, int]
    source: str
    model: ModelInfo
    timing_ms: dict[str, float]
    status: Literal["ok", "no_face", "truncated"]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, texts and numbers."""
        return self.model_dump(mode="json")

    def to_json(self, indent: int | None = None) -> str:
        return self.model_dump_json(indent=indent)

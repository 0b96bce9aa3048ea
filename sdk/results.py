"""What an analysis returns: frozen records, with a JSON schema for free (`Analysis.model_json_schema()`)."""

import os
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from sdk.faba.answers import ActionUnitReading, EmotionReading
from sdk.faces.crop import Box

if TYPE_CHECKING:
    import pandas
    from PIL.Image import Image

    from sdk.faces.images import ImageSource

__all__ = ["ActionUnitReading", "Analysis", "EmotionReading", "Face", "FrameInfo", "ModelInfo"]

SCHEMA_VERSION: Literal["1.0"] = "1.0"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Face(_Record):
    """One face of a picture.

    Attributes:
        id: 0, 1, 2 ... from left to right in a picture; in a video the number of the track, which stays with the face.
        box_xyxy: left, top, right, bottom in float pixels of the original picture; may reach beyond it.
        detection_score: the detector's own score, higher is surer; None with faces="aligned".
        landmarks: 106 points (x, y) in pixels of the original picture, in the order of the bundle's landmark network
            (insightface's, or in the packaged model Multi-PIE's 68 and 38 more); None where the model's landmark
            feature is no coordinate (mode "emola").
        emotion: None when that task was not asked.
        action_units: every unit that the answer mentions; None when that task was not asked.
        action_units_text: the answer in full; None when that task was not asked.
        action_unit_scores: "AU4" -> probability in 0..1 that the model would list it; None unless scores were asked.
        age_ms: video only: how long before this frame the face was read; 0 for a face read in this frame.
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


class FrameInfo(_Record):
    """Where in a video a picture stands.

    Attributes:
        index: number of the frame in the source, from 0.
        time_s: its time in seconds from the start of the source.
        dropped: frames left out so far because the analysis was late.
    """

    index: int
    time_s: float
    dropped: int


class Analysis(_Record):
    """Everything about one picture.

    Attributes:
        faces: from left to right; empty when none was found.
        image_size: width, height in pixels, after the EXIF orientation; (0, 0) when the picture could not be read.
        source: the path that was given, or a word for what else it was.
        model: which model spoke.
        timing_ms: wall time per stage, over all faces.
        tokens_per_second: speed of decoding after the first token of each answer; None when nothing was decoded.
        status: "ok"; "no_face"; "truncated" when a token budget cut an answer off; "failed" when a picture of a batch
            could not be read.
        warnings: one sentence for each thing that a reader should know.
        score_calibration: "temperature" when the label scores of both tasks were fitted to evaluation sets at export,
            else "uncalibrated"; None when no scores were asked for.
        frame: video only.
    """

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    faces: tuple[Face, ...]
    image_size: tuple[int, int]
    source: str
    model: ModelInfo
    timing_ms: dict[str, float]
    tokens_per_second: float | None = None
    status: Literal["ok", "no_face", "truncated", "failed"]
    warnings: tuple[str, ...]
    score_calibration: Literal["temperature", "uncalibrated"] | None = None
    frame: FrameInfo | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, texts and numbers."""
        return self.model_dump(mode="json")

    def to_json(self, indent: int | None = None) -> str:
        return self.model_dump_json(indent=indent)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per face; the columns are described in `sdk.tables`.

        Raises:
            DependencyError: pandas is not installed.
        """
        from sdk.tables import dataframe

        return dataframe([self])

    def to_csv(self, path: "str | os.PathLike[str]") -> None:
        """Write the same rows as a CSV file; needs no pandas."""
        from sdk.tables import CsvFile

        with CsvFile(path) as file:
            file.add(self)

    def plot(self, image: "ImageSource | None" = None) -> "Image":
        """The picture with boxes, face ids and emotions, and a panel of action units at its side.

        Args:
            image: what was analysed: path, bytes, PIL image or (H, W, 3) uint8 RGB array; None opens `source` again.

        Returns:
            A PIL image: notebooks show it, `.save("out.png")` writes it.

        Raises:
            ImageError: there is no picture at `source`.
        """
        from sdk.render import figure

        return figure(self.source if image is None else image, self)

"""What an analysis returns; its JSON schema is `Analysis.model_json_schema()`."""

import os
from typing import TYPE_CHECKING

from sdk.faba.answers import ActionUnitReading, EmotionReading
from sdk.faces.images import ImageSource
from sdk.records import AnalysisRecord, Face, FrameInfo, ModelInfo

if TYPE_CHECKING:
    import pandas
    from PIL.Image import Image

__all__ = ["ActionUnitReading", "Analysis", "EmotionReading", "Face", "FrameInfo", "ModelInfo"]


class Analysis(AnalysisRecord):
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

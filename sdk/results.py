"""The result of an analysis. Its JSON schema is `Analysis.model_json_schema()`."""

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
    """The analysis of one picture.

    Attributes:
        faces: faces from left to right; empty if none was found.
        image_size: width, height in pixels, after the EXIF orientation; (0, 0) if the picture could not be read.
        source: path of the picture or name of the open file, or "PIL image", "array" or "bytes".
        model: the model that made the analysis.
        timing_ms: wall time of each stage, over all faces.
        tokens_per_second: decoding speed after the first token of each answer; None if nothing was decoded.
        status: "ok"; "no_face"; "truncated" if a token limit cut an answer off; "failed" if a picture of a batch could
            not be read.
        warnings: one sentence for each limitation of this result.
        score_calibration: "temperature" if the label scores of both tasks were fitted to evaluation sets at export,
            else "uncalibrated"; None without scores.
        frame: position in the video; None for pictures.
    """

    def to_dataframe(self) -> "pandas.DataFrame":
        """Make a pandas table with one row per face; see `sdk.tables` for the columns.

        Raises:
            DependencyError: pandas is not installed.
        """
        from sdk.tables import dataframe

        return dataframe([self])

    def to_csv(self, path: "str | os.PathLike[str]") -> None:
        """Write the same rows to a CSV file, without pandas."""
        from sdk.tables import CsvFile

        with CsvFile(path) as file:
            file.add(self)

    def plot(self, image: "ImageSource | None" = None) -> "Image":
        """Draw the picture with boxes, face ids and emotions, and a panel of action units beside it.

        Args:
            image: the analysed picture: path, bytes, PIL image or (H, W, 3) uint8 RGB array; None opens `source` again.

        Returns:
            A PIL image: notebooks show it, `.save("out.png")` writes it.

        Raises:
            ImageError: `source` is not a picture file.
        """
        from sdk.render import figure

        return figure(self.source if image is None else image, self)

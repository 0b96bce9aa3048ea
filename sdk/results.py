"""The result of an analysis. Its JSON schema is `Analysis.model_json_schema()`."""

import os
from typing import TYPE_CHECKING

from pydantic import PrivateAttr

from sdk.arrays import Pixels
from sdk.errors import ImageError
from sdk.faba.answers import ActionUnitReading, EmotionReading
from sdk.faces.images import UNNAMED, ImageSource, load_again
from sdk.records import AnalysisRecord, Face, FrameInfo, HeadPose, ModelInfo

if TYPE_CHECKING:
    import pandas
    from PIL.Image import Image
    from typing_extensions import Self

__all__ = ["ActionUnitReading", "Analysis", "EmotionReading", "Face", "FrameInfo", "HeadPose", "ModelInfo"]


class _Kept:
    """The pixels of a picture, which take no part in comparisons."""

    def __init__(self, pixels: Pixels | None = None) -> None:
        self.pixels = pixels

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kept)

    __hash__ = None  # type: ignore[assignment]


class Analysis(AnalysisRecord):
    """The analysis of one picture. `print` shows it in a few lines, a notebook as a picture and a table.

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

    _kept: _Kept = PrivateAttr(default_factory=_Kept)

    def __str__(self) -> str:
        from sdk.render import summary

        return summary(self)

    def _repr_html_(self) -> str:
        from sdk.notebook import notebook_html

        try:
            image = load_again(self._picture(), self.image_size) if self._kept.pixels is None else self._kept.pixels
        except ImageError:
            image = None
        return notebook_html(self, image)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Make a pandas table with one row per face; see `sdk.tables` for the columns.

        `sdk.to_dataframe` makes one table of many analyses.

        Raises:
            DependencyError: pandas is not installed.
        """
        from sdk.tables import to_dataframe

        return to_dataframe([self])

    def to_csv(self, path: "str | os.PathLike[str]") -> None:
        """Write the same rows to a CSV file, without pandas."""
        from sdk.tables import CsvFile

        with CsvFile(path) as file:
            file.add(self)

    def with_picture(self, pixels: Pixels) -> "Self":
        """Copy the analysis together with its picture, which `plot` then draws. JSON and comparisons leave it out.

        Args:
            pixels: (H, W, 3) uint8 RGB, as `Analyzer.watch` yields them; the array is not copied.
        """
        copy = self.model_copy()
        copy._kept = _Kept(pixels)
        return copy

    def plot(self, image: "ImageSource | None" = None) -> "Image":
        """Draw the picture with boxes, face ids and emotions, and below it each face with the words about it.

        Args:
            image: the analysed picture: path, bytes, PIL image or (H, W, 3) uint8 RGB array; None takes the one that
                was kept (`Analyzer(keep_image=True)`, `with_picture`), or opens `source` again.

        Returns:
            A PIL image: notebooks show it, `.save("out.png")` writes it.

        Raises:
            ImageError: no picture is given or kept, and `source` is not a picture file.
        """
        from sdk.figure import figure

        return figure(self._picture() if image is None else image, self)

    def _picture(self) -> ImageSource:
        """The kept picture, or the file that the analysis is about."""
        if self._kept.pixels is not None:
            return self._kept.pixels
        if self.frame is None and self.source not in UNNAMED and os.path.isfile(self.source):
            return self.source
        what = f"frame {self.frame.index} of {self.source}" if self.frame else self.source
        raise ImageError(f"{what}: the picture is not there: pass it, plot(picture), or open Analyzer(keep_image=True)")

"""Output files of a video analysis: JSON lines, a table, an annotated video and a timeline."""

import os
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdk.arrays import Pixels
from sdk.errors import DependencyError, SdkError, VideoError
from sdk.records import AnalysisRecord
from sdk.render import annotate
from sdk.replacement import Replacement, output_errors
from sdk.table_files import open_table
from sdk.tables import GrowingFile
from sdk.timeline import Timeline


class JsonLines(GrowingFile):
    """A JSONL file with one analysis per line."""

    def _append(self, analysis: AnalysisRecord) -> None:
        self.file.write(analysis.to_json() + "\n")


class AnnotatedVideo:
    """An mp4 file of the analysed frames with boxes, ids and labels, each at its own time.

    The file has a temporary name until it is closed, also after an error or an interruption. Without a frame, or if its
    last part cannot be written, it is removed and an earlier file stays.

    Args:
        path: file name ending in .mp4.

    Raises:
        OutputError, VideoError: the file cannot be written.
    """

    _TICK_RATE = 1000  # time base: ticks per second

    def __init__(self, path: "str | os.PathLike[str]") -> None:
        self._path = Path(path)
        if self._path.suffix != ".mp4":
            raise VideoError(f"{self._path}: expected a file name ending in .mp4")
        self._new = Replacement(self._path)
        if self._new.is_direct:
            raise VideoError(f"{self._path} is not a regular file, which an mp4 needs; choose another path")
        self._container: Any = None
        self._stream: Any = None
        self._ticks = -1

    def add(self, pixels: Pixels, analysis: AnalysisRecord) -> None:
        """Append a frame: (H, W, 3) uint8 RGB and its analysis."""
        with output_errors(self._path):
            self._encode(pixels, analysis)

    def _encode(self, pixels: Pixels, analysis: AnalysisRecord) -> None:
        import av

        picture = annotate(pixels, analysis)
        if self._container is None:
            self._open(picture)
        if picture.size != (self._stream.width, self._stream.height):  # H.264 needs even sizes
            picture = picture.crop((0, 0, self._stream.width, self._stream.height))
        frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
        frame.time_base = Fraction(1, self._TICK_RATE)
        ticks = round(self._TICK_RATE * (analysis.frame.time_s if analysis.frame else 0))
        frame.pts = self._ticks = max(ticks, self._ticks + 1)  # H.264 needs times that increase
        self._container.mux(self._stream.encode(frame))

    def _open(self, picture: Image.Image) -> None:
        try:
            import av
        except ImportError:
            raise DependencyError("av", "video", "write videos") from None
        try:
            # without "file:", FFmpeg takes what is before a colon for a protocol
            self._container = av.open(f"file:{self._new.place}", "w", format="mp4")
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            self._stream = self._container.add_stream(codec, rate=25)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise VideoError(f"{self._path} cannot be written ({error}); choose another path") from None
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, self._TICK_RATE)
        self._stream.width, self._stream.height = (side + side % 2 for side in picture.size)

    def __enter__(self) -> "AnnotatedVideo":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._container is None:
            self._new.discard()
            return
        try:
            with output_errors(self._path):
                self._finish()
        except BaseException:
            self._new.discard()
            raise
        self._new.keep()

    def _finish(self) -> None:
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


class Recorder:
    """Writes any of the four output files; a context manager that closes all of them.

    Args:
        jsonl, csv, video, timeline: paths; None writes no such file. The ending of `csv` may be .xlsx or .parquet, too.
    """

    def __init__(
        self,
        jsonl: "str | os.PathLike[str] | None" = None,
        csv: "str | os.PathLike[str] | None" = None,
        video: "str | os.PathLike[str] | None" = None,
        timeline: "str | os.PathLike[str] | None" = None,
    ) -> None:
        self.paths = [Path(path) for path in (jsonl, csv, video, timeline) if path is not None]
        if len(set(self.paths)) < len(self.paths):
            raise SdkError("two outputs have the same path; choose different paths")
        with ExitStack() as opened:
            self._jsonl = opened.enter_context(JsonLines(jsonl)) if jsonl else None
            self._csv = open_table(Path(csv)) if csv else None
            if self._csv:
                opened.enter_context(self._csv)
            self._video = opened.enter_context(AnnotatedVideo(video)) if video else None
            self._timeline = opened.enter_context(Timeline(timeline)) if timeline else None
            self._open = opened.pop_all()

    def add(self, pixels: Pixels, analysis: AnalysisRecord) -> None:
        """Append a frame, (H, W, 3) uint8 RGB, and its analysis to every file."""
        if self._jsonl:
            self._jsonl.add(analysis)
        if self._csv:
            self._csv.add(analysis)
        if self._timeline:
            self._timeline.add(analysis, pixels)
        if self._video:
            self._video.add(pixels, analysis)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._open.__exit__(*exception)

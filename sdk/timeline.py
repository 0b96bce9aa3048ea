"""Draw emotion and action units over time, with one panel for each face."""

import os
from collections import defaultdict
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdk.arrays import Pixels
from sdk.errors import DependencyError, SdkError
from sdk.faba.vocabulary import EMOTIONS, FABA_UNITS, Emotion
from sdk.faces.crop import Box, crop_face
from sdk.records import AnalysisRecord, Face
from sdk.render import face_colour
from sdk.replacement import Replacement, output_errors

_COLOURS: dict[Emotion, str] = {
    "happiness": "#f2b134",
    "sadness": "#4363d8",
    "surprise": "#2aa198",
    "anger": "#d62728",
    "neutral": "#999999",
    "disgust": "#6a8f3c",
    "fear": "#911eb4",
}
_NO_LABEL = "#dddddd"
_MAX_TRACKS = 12
_MIN_STRENGTH = 0.2  # a unit that is never stronger has no row
_BAND = 1.6  # height of the emotions, in rows
_THUMBNAIL = 96  # pixels
_MAX_GAP = 3  # frames without the face; after a longer gap nothing is drawn until the face is back


@dataclass
class _TrackHistory:
    """The readings of one face: times in seconds, emotion labels, and (T, 20) strengths of the units in 0..1.

    The thumbnail is the largest view so far, (96, 96, 3) uint8 RGB, and `side` the longer side of its box in pixels.
    """

    times: list[float] = field(default_factory=list)
    emotions: list[Emotion | None] = field(default_factory=list)
    units: list[list[float]] = field(default_factory=list)
    thumbnail: Pixels | None = None
    side: float = 0.0


class Timeline:
    """Collects the analyses of a video and draws them as a picture when it is closed.

    Each face has a panel with its thumbnail: the emotions as a band of colours, and below it a row for each unit that
    was seen, AU1 first, in the colour of the face. The strength of a unit is its label score. Without scores it is 1
    for a present unit, else 0. The picture shows the twelve tracks with the most frames.

    Args:
        path: file name of a picture, such as timeline.png.

    Raises:
        DependencyError: matplotlib is not installed.
        SdkError: the name is not that of a picture.
        OutputError: the picture cannot be written.
    """

    def __init__(self, path: "str | os.PathLike[str]") -> None:
        try:
            import matplotlib.backend_bases
            import matplotlib.figure
        except ImportError:
            raise DependencyError("matplotlib", "video", "draw a timeline") from None
        self._path = Path(path)
        self._format = self._path.suffix[1:] or "png"
        if self._format not in matplotlib.backend_bases.FigureCanvasBase.get_supported_filetypes():
            raise SdkError(f"{self._path}: expected the name of a picture, such as timeline.png")
        self._new = Replacement(self._path)
        self._figure = matplotlib.figure.Figure
        self._tracks: defaultdict[int, _TrackHistory] = defaultdict(_TrackHistory)
        self._times: list[float] = []  # of all frames

    def add(self, analysis: AnalysisRecord, pixels: Pixels | None = None) -> None:
        """Append one frame.

        Args:
            pixels: (H, W, 3) uint8 RGB: the frame, for thumbnails of the faces.
        """
        time_s = analysis.frame.time_s if analysis.frame else 0.0
        self._times.append(time_s)
        for face in analysis.faces:
            track = self._tracks[face.id]
            track.times.append(time_s)
            track.emotions.append(face.emotion.label if face.emotion else None)
            track.units.append(_strengths(face))
            if pixels is not None:
                _keep_view(track, face.box_xyxy, pixels)

    def draw(self) -> Any:
        """Draw the tracks; return a matplotlib Figure with two axes for each: thumbnail and panel."""
        most = sorted(self._tracks, key=lambda number: -len(self._tracks[number].times))[:_MAX_TRACKS]
        shown = {number: self._tracks[number] for number in sorted(most)}
        heights = [max(4.5, 3 + len(_rows(track))) for track in shown.values()]
        figure = self._figure(figsize=(11, 1 + 0.24 * sum(heights)), layout="constrained")
        if not shown:
            figure.text(0.5, 0.5, "no face found", ha="center")
            return figure
        step = float(np.median(np.diff(self._times))) if len(self._times) > 1 else 1.0
        panels = figure.subplots(
            len(shown), 2, squeeze=False, sharex="col", width_ratios=(1, 11), height_ratios=heights
        )
        for (left, right), (number, track) in zip(panels, shown.items(), strict=True):
            _draw_thumbnail(left, number, track)
            _draw_track(right, face_colour(number), track, step)
        panels[-1, 1].set_xlabel("time in s")
        return figure

    def __enter__(self) -> "Timeline":
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None and not self._tracks:
            self._new.discard()
            return
        try:
            content = BytesIO()
            self.draw().savefig(content, dpi=110, format=self._format)
            with output_errors(self._path):
                self._new.place.write_bytes(content.getvalue())
        except BaseException:
            self._new.discard()
            raise
        self._new.keep()


def _strengths(face: Face) -> list[float]:
    if face.action_unit_scores is not None:
        return [face.action_unit_scores[f"AU{code}"] for code in FABA_UNITS]
    present = {unit.code for unit in face.action_units or () if unit.present}
    return [float(code in present) for code in FABA_UNITS]


def _keep_view(track: _TrackHistory, box: Box, pixels: Pixels) -> None:
    """Keep the view of a face if it is larger than those before."""
    side = max(box[2] - box[0], box[3] - box[1])
    if side > track.side:
        view = Image.fromarray(crop_face(pixels, box, 1.2).pixels)
        track.thumbnail, track.side = np.asarray(view.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)), side


def _rows(track: _TrackHistory) -> list[int]:
    """Indices of the units that have a row."""
    return np.flatnonzero(np.max(track.units, axis=0) >= _MIN_STRENGTH).tolist()


def _draw_thumbnail(axes: Any, number: int, track: _TrackHistory) -> None:
    axes.set_title(f"face {number}", color=face_colour(number), fontsize=11, fontweight="bold")
    if track.thumbnail is None:
        axes.axis("off")
        return
    axes.imshow(track.thumbnail)
    axes.set(xticks=(), yticks=(), anchor="N")
    axes.spines[:].set(color=face_colour(number), linewidth=3)


def _draw_track(axes: Any, colour: str, track: _TrackHistory, step: float) -> None:
    """Draw the emotions as a band and the units as a heat map below it; gaps stay empty.

    Args:
        step: seconds between two frames.
    """
    from matplotlib.colors import LinearSegmentedColormap

    times = np.array(track.times)
    ends = np.append(times[1:], times[-1] + step)
    ends = np.where(ends - times > _MAX_GAP * step, times + step, ends)
    rows = _rows(track)
    if rows:
        edges = np.unique(np.concatenate([times, ends]))
        strengths = np.full((len(rows), len(edges) - 1), np.nan)
        strengths[:, np.searchsorted(edges, times)] = np.array(track.units).T[rows]
        shades = LinearSegmentedColormap.from_list("strength", ("white", colour))
        axes.pcolormesh(edges, np.arange(len(rows) + 1), strengths, cmap=shades, vmin=0, vmax=1)
    for row in range(1, len(rows)):
        axes.axhline(row, color="white", linewidth=2)
    for emotion in (*EMOTIONS, None):
        spans = [(times[i], ends[i] - times[i]) for i in range(len(times)) if track.emotions[i] == emotion]
        if spans:
            shade = _COLOURS[emotion] if emotion else _NO_LABEL
            axes.broken_barh(spans, (-_BAND - 0.3, _BAND), facecolors=shade, label=emotion or "no label")
    names = ["emotion" if any(track.emotions) else "seen", *(f"AU{FABA_UNITS[row]}" for row in rows)]
    axes.set_yticks([-0.3 - _BAND / 2, *(place + 0.5 for place in range(len(rows)))], names, fontsize=9)
    axes.set_ylim(len(rows), -_BAND - 0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if any(track.emotions):
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9, frameon=False)

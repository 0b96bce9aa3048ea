"""Draw emotion and action units over time, with one panel per track."""

import os
from collections import defaultdict
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from sdk.errors import DependencyError, SdkError
from sdk.faba.vocabulary import EMOTIONS, FABA_UNITS, Emotion
from sdk.records import AnalysisRecord, Face
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
_MAX_TRACKS = 12
_MAX_GAP = 3  # frames without the face; after a longer gap nothing is drawn until the face is back


@dataclass
class _TrackHistory:
    """The readings of one face: times in seconds, emotion labels, and (T, 20) strengths of the units in 0..1."""

    times: list[float] = field(default_factory=list)
    emotions: list[Emotion | None] = field(default_factory=list)
    units: list[list[float]] = field(default_factory=list)


class Timeline:
    """Collects the analyses of a video and draws them as a picture when it is closed.

    The strength of a unit is its label score. Without scores it is 1 for a present unit, else 0. The picture shows the
    twelve tracks with the most frames.

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

    def add(self, analysis: AnalysisRecord) -> None:
        """Append one frame."""
        time_s = analysis.frame.time_s if analysis.frame else 0.0
        for face in analysis.faces:
            track = self._tracks[face.id]
            track.times.append(time_s)
            track.emotions.append(face.emotion.label if face.emotion else None)
            track.units.append(_strengths(face))

    def draw(self) -> Any:
        """Draw the tracks; return a matplotlib Figure."""
        shown = sorted(self._tracks, key=lambda number: -len(self._tracks[number].times))[:_MAX_TRACKS]
        figure = self._figure(figsize=(10, 1 + 3.2 * max(1, len(shown))), layout="constrained")
        if not shown:
            figure.text(0.5, 0.5, "no face", ha="center")
            return figure
        panels = figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0]
        for axes, number in zip(panels, sorted(shown), strict=True):
            _draw_track(axes, number, self._tracks[number])
        panels[-1].set_xlabel("time in s")
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


def _draw_track(axes: Any, number: int, track: _TrackHistory) -> None:
    """Draw the units as a heat map and the emotion as a strip of colour above it; gaps stay empty."""
    times = np.array(track.times)
    width = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    ends = np.append(times[1:], times[-1] + width)
    ends = np.where(ends - times > _MAX_GAP * width, times + width, ends)
    edges = np.unique(np.concatenate([times, ends]))
    strengths = np.full((len(FABA_UNITS), len(edges) - 1), np.nan)
    strengths[:, np.searchsorted(edges, times)] = np.array(track.units).T
    axes.pcolormesh(edges, np.arange(len(FABA_UNITS) + 1), strengths, cmap="Greys", vmin=0, vmax=1)
    axes.set_yticks(np.arange(len(FABA_UNITS)) + 0.5, [f"AU{code}" for code in FABA_UNITS], fontsize=6)
    strip = (len(FABA_UNITS) + 0.4, 1.6)
    for emotion in EMOTIONS:
        shown = [i for i, name in enumerate(track.emotions) if name == emotion]
        spans = [(times[i], ends[i] - times[i]) for i in shown]
        if spans:
            axes.broken_barh(spans, strip, facecolors=_COLOURS[emotion], label=emotion)
    axes.set_ylim(0, len(FABA_UNITS) + 2.2)
    axes.set_title(f"face {number}", loc="left", fontsize=9)
    if any(track.emotions):
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=7, frameon=False)

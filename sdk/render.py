"""Show an analysis as text, or as a picture with boxes and labels."""

import textwrap
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sdk.arrays import Pixels
from sdk.faba.vocabulary import ACTION_UNITS, Emotion
from sdk.faces.images import ImageSource, load_image
from sdk.printable import printable
from sdk.records import AnalysisRecord, Face

_MIN_SIDE, _MAX_SIDE = 640, 1600  # pixels of the longer side of a figure's picture
_MIN_SCORE = 0.05  # lowest score that is drawn
_REASON_WIDTH = 54  # characters in a line of reasons
_TEXT_COLOUR = "#555555"  # of reasons and notice
_SUMMARY_FACES = 8  # in a summary; more are counted
_FACE_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080")


def summary(analysis: AnalysisRecord) -> str:
    """Describe an analysis in a few lines: one for the picture, one for each of up to eight faces, and the warnings."""
    lines = [_headline(analysis)]
    for face in analysis.faces[:_SUMMARY_FACES]:
        emotion = (face.emotion.label or "no label") + _shares(face.emotion.scores) if face.emotion else ""
        units = " ".join(unit.id for unit in face.action_units or () if unit.present)
        lines.append("  ".join(filter(None, (f"  face {face.id}", emotion, units))))
    if more := len(analysis.faces[_SUMMARY_FACES:]):
        lines.append(f"  and {more} more")
    return "\n".join([*lines, *(f"  warning: {printable(warning)}" for warning in analysis.warnings)])


def _headline(analysis: AnalysisRecord) -> str:
    size = "{} x {}".format(*analysis.image_size)
    count = {0: "no face", 1: "1 face"}.get(len(analysis.faces), f"{len(analysis.faces)} faces")
    return f"{printable(analysis.source)}  ({size}, {count}, {analysis.model.name} on {analysis.model.backend})"


def describe(analysis: AnalysisRecord, width: int = 100) -> str:
    """Describe an analysis in indented lines of at most `width` characters."""
    lines = [_headline(analysis)]
    for face in analysis.faces:
        lines += ["", *_describe_face(face, width)]
    if analysis.status == "no_face":
        lines.append('  if the picture is the crop of one face, use --faces aligned (in Python faces="aligned")')
    return "\n".join([*lines, *(f"warning: {warning}" for warning in analysis.warnings), ""])


def _describe_face(face: Face, width: int) -> list[str]:
    box = "{:.0f},{:.0f} - {:.0f},{:.0f}".format(*face.box_xyxy)
    score = "" if face.detection_score is None else f"  detection score {face.detection_score:.2f}"
    lines = [f"  face {face.id}  box {box}{score}"]
    if face.emotion:
        lines.append(f"    emotion: {face.emotion.label or 'no label'}{_shares(face.emotion.scores)}")
        lines += _wrap(face.emotion.description, width)
    if face.action_units is not None:
        present = [unit for unit in face.action_units if unit.present]
        lines.append("    action units: " + (", ".join(unit.id for unit in present) or "none"))
        for unit in present:
            lines += _wrap(": ".join(filter(None, (f"{unit.id} {unit.name}", unit.reason))), width)
        absent = [unit.id for unit in face.action_units if not unit.present]
        if absent and face.action_units_text is not None:
            lines += _wrap(f"absent: {', '.join(absent)}", width)
    return lines


def _shares(scores: "Mapping[Emotion, float] | None") -> str:
    """The two best scores."""
    best = sorted((scores or {}).items(), key=lambda pair: -pair[1])[:2]
    return "".join(f"  {emotion} {share:.2f}" for emotion, share in best)


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(printable(text), width, initial_indent=" " * 6, subsequent_indent=" " * 8)


def annotate(image: Pixels, analysis: AnalysisRecord, *, units: bool = True) -> Image.Image:
    """Draw a box and a label at each face.

    Args:
        image: (H, W, 3) uint8 RGB: the analysed picture, or the same picture at another size.
        units: also list the action units in the label.

    Returns:
        A new PIL image of the same size.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    thickness = max(2, round(max(picture.size) / 300))
    font = ImageFont.load_default(size=max(11, 0.018 * max(picture.size)))
    scale = picture.width / max(analysis.image_size[0], 1)
    for face in analysis.faces:
        box = [scale * edge for edge in face.box_xyxy]
        colour = face_colour(face.id)
        draw.rectangle(box, outline=colour, width=thickness)
        label = _label(face, units)
        _, _, right, bottom = draw.multiline_textbbox((0, 0), label, font=font)
        x = min(max(0, box[0]), max(0, picture.width - right - 8))
        y = box[1] - bottom - 8
        if y < 0:  # no room above
            y = min(box[3], picture.height - bottom - 8)
        draw.rectangle((x, y, x + right + 8, y + bottom + 8), fill=colour)
        draw.multiline_text((x + 4, y + 2), label, fill="white", font=font)
    return picture


def face_colour(face_id: int) -> str:
    return _FACE_COLOURS[face_id % len(_FACE_COLOURS)]


def _label(face: Face, units: bool) -> str:
    parts = [f"{face.id}  {face.emotion.label or '?'}" if face.emotion else f"{face.id}"]
    if units and face.action_units is not None:
        parts.append(" ".join(unit.id for unit in face.action_units if unit.present))
    return "\n".join(filter(None, parts))


def figure(image: ImageSource, analysis: AnalysisRecord) -> Image.Image:
    """Draw the annotated picture beside a panel with the emotion and the action units of each face, and the reasons.

    The reasons are left out if those of all faces do not fit beside the picture. With scores, each unit has a bar as
    long as its score. Without scores, the units have no bars, because a full bar would look like certainty. Small
    pictures are enlarged and large ones reduced to keep the text readable. The notice of the model is below the panel.

    Args:
        image: the analysed picture; see `sdk.faces.images.load_image`. Arrays are RGB.
    """
    pixels = load_image(image, color="rgb" if isinstance(image, np.ndarray) and image.ndim == 3 else None)
    picture = Image.fromarray(pixels)
    zoom = min(max(1.0, _MIN_SIDE / max(picture.size)), _MAX_SIDE / max(picture.size))
    size = (max(1, round(picture.width * zoom)), max(1, round(picture.height * zoom)))
    picture = annotate(np.asarray(picture.resize(size, Image.Resampling.BICUBIC)), analysis, units=False)
    line = max(16, picture.height // 45)
    notice = textwrap.wrap(analysis.model.notice or "", 40)
    for reasons in (True, False):
        blocks = [(face, _lines(face, reasons)) for face in analysis.faces]
        height = line * (sum(len(lines) + 2 for _, lines in blocks) + len(notice) + 2)
        if height <= picture.height:
            break
    canvas = Image.new("RGB", (picture.width + 22 * line, max(picture.height, height)), "white")
    canvas.paste(picture, (0, 0))
    y = line // 2
    for face, lines in blocks:
        _draw_panel(ImageDraw.Draw(canvas), (picture.width + line, y), line, face, lines)
        y += line * (len(lines) + 2)
    corner, font = (canvas.width - 21 * line, canvas.height - line * (len(notice) + 1)), _font(line)
    ImageDraw.Draw(canvas).multiline_text(corner, "\n".join(notice), fill=_TEXT_COLOUR, font=font)
    return canvas


class _Line(NamedTuple):
    text: str
    bar: float | None = None  # length in 0..1
    colour: str = "black"


def _lines(face: Face, reasons: bool) -> list[_Line]:
    """The description of the emotion, then each unit with its reason; without `reasons` the units alone."""

    def wrapped(text: str | None) -> list[_Line]:
        parts = textwrap.wrap(printable(text or ""), _REASON_WIDTH) if reasons else []
        return [_Line(part, colour=_TEXT_COLOUR) for part in parts]

    shown: dict[int, float | None]
    if face.action_unit_scores is not None:
        shown = {int(name[2:]): score for name, score in face.action_unit_scores.items() if score >= _MIN_SCORE}
    else:
        shown = {unit.code: None for unit in face.action_units or () if unit.present}
    reason_of = {unit.code: unit.reason for unit in face.action_units or ()}
    lines = wrapped(face.emotion.description) if face.emotion else []
    for code, score in sorted(shown.items()):
        lines += [_Line(f"AU{code} {ACTION_UNITS[code]}", score), *wrapped(reason_of.get(code))]
    return lines


def _font(line: int) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    return ImageFont.load_default(size=0.72 * line)


def _draw_panel(draw: ImageDraw.ImageDraw, corner: tuple[int, int], line: int, face: Face, lines: list[_Line]) -> None:
    """Draw a heading in the colour of the face, and its lines below."""
    x, y = corner
    font = _font(line)
    title = f"face {face.id}"
    if face.emotion:
        title += f"  {face.emotion.label or 'no label'}"
        if face.emotion.scores and face.emotion.label:
            title += f"  {face.emotion.scores[face.emotion.label]:.2f}"
    draw.rectangle((x, y, x + 20 * line, y + line), fill=face_colour(face.id))
    draw.text((x + line // 4, y), title, fill="white", font=font)
    for text, bar, colour in lines:
        y += line
        draw.text((x, y), text, fill=colour, font=font)
        if bar is None:
            continue
        left, top, bottom = x + 13 * line, y + line // 5, y + line - line // 8
        draw.rectangle((left, top, left + 7 * line, bottom), outline="#bbbbbb")
        draw.rectangle((left, top, left + round(7 * line * bar), bottom), fill=face_colour(face.id))

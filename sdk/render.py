"""Show an analysis as text, or as a picture with boxes and labels."""

import textwrap
from collections.abc import Mapping
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from sdk.arrays import Pixels
from sdk.faba.vocabulary import Emotion
from sdk.printable import printable
from sdk.records import AnalysisRecord, Face

_FINE = 4  # text is drawn so much larger and then reduced: Pillow puts letters at whole pixels
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
    if face.head_pose:
        lines.append("    head: " + ", ".join(f"{name} {angle:.0f}" for name, angle in face.head_pose) + " degrees")
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
    thickness, size = max(2, round(max(picture.size) / 300)), max(12, round(max(picture.size) / 45))
    scale = picture.width / max(analysis.image_size[0], 1)
    for face in analysis.faces:
        box = [scale * edge for edge in face.box_xyxy]
        colour = face_colour(face.id)
        draw.rectangle(box, outline=colour, width=thickness)
        label = _mask(_label(face, units), size)
        width, height = label.width + size // 2, label.height + size // 3
        x = min(max(0, box[0]), max(0, picture.width - width))
        y = box[1] - height
        if y < 0:  # no room above
            y = min(box[3], picture.height - height)
        draw.rectangle((x, y, x + width, y + height), fill=colour)
        picture.paste("white", (round(x) + size // 4, round(y) + size // 8), label)
    return picture


def face_colour(face_id: int) -> str:
    return _FACE_COLOURS[face_id % len(_FACE_COLOURS)]


def _label(face: Face, units: bool) -> str:
    parts = [f"{face.id}  {face.emotion.label or '?'}" if face.emotion else f"{face.id}"]
    if units and face.action_units is not None:
        parts.append(" ".join(unit.id for unit in face.action_units if unit.present))
    return "\n".join(filter(None, parts))


def write(picture: Image.Image, corner: tuple[int, int], text: str, size: int, colour: str) -> None:
    """Write one or more lines of text.

    Args:
        corner: left and top in pixels.
        size: of the type in pixels.
    """
    picture.paste(colour, corner, _mask(text, size))


def text_width(text: str, size: int) -> float:
    """The width in pixels that `write` needs for one line."""
    return _font(size).getlength(text) / _FINE


def _mask(text: str, size: int) -> Image.Image:
    font, spacing = _font(size), _FINE * size // 4
    *_, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), text, font, spacing=spacing)
    mask = Image.new("L", (max(1, round(right)), max(1, round(bottom))))
    ImageDraw.Draw(mask).multiline_text((0, 0), text, 255, font, spacing=spacing)
    return mask.reduce(_FINE)


@lru_cache(maxsize=8)
def _font(size: int) -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    return ImageFont.load_default(size=_FINE * size)

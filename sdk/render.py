"""An analysis for human eyes: as text, and as a picture with boxes and labels."""

import textwrap

from PIL import Image, ImageDraw, ImageFont

from sdk.faces.images import Pixels
from sdk.results import Analysis, Face

_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080")


def describe(analysis: Analysis, width: int = 100) -> str:
    """What was found, as indented lines of at most `width` characters."""
    size = "{} x {}".format(*analysis.image_size)
    count = {0: "no face", 1: "1 face"}.get(len(analysis.faces), f"{len(analysis.faces)} faces")
    lines = [f"{analysis.source}  ({size}, {count}, {analysis.model.name} on {analysis.model.backend})"]
    for face in analysis.faces:
        lines += ["", *_describe_face(face, width)]
    return "\n".join([*lines, *(f"warning: {warning}" for warning in analysis.warnings), ""])


def _describe_face(face: Face, width: int) -> list[str]:
    box = "{:.0f},{:.0f} - {:.0f},{:.0f}".format(*face.box_xyxy)
    score = "" if face.detection_score is None else f"  detection score {face.detection_score:.2f}"
    lines = [f"  face {face.id}  box {box}{score}"]
    if face.emotion:
        lines.append(f"    emotion: {face.emotion.label or 'none named'}")
        lines += _wrap(face.emotion.description, width)
    if face.action_units is not None:
        present = [unit for unit in face.action_units if unit.present]
        lines.append("    action units: " + (", ".join(unit.id for unit in present) or "none named"))
        for unit in present:
            lines += _wrap(f"{unit.id} {unit.name}: {unit.reason}", width)
        absent = [unit.id for unit in face.action_units if not unit.present]
        if absent:
            lines += _wrap(f"said to be absent: {', '.join(absent)}", width)
    return lines


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(_printable(text), width, initial_indent=" " * 6, subsequent_indent=" " * 8)


def _printable(text: str) -> str:
    """Control characters could move a terminal's cursor; a model may say anything."""
    return "".join(
        letter if letter.isprintable() or letter.isspace() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def annotate(image: Pixels, analysis: Analysis) -> Image.Image:
    """The picture with a box and a label at each face.

    Args:
        image: (H, W, 3) uint8 RGB, the picture that was analysed.

    Returns:
        A new PIL image of the same size.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    unit = max(picture.size) / 100
    font = ImageFont.load_default(size=max(11, 1.8 * unit))
    for face in analysis.faces:
        colour = _COLOURS[face.id % len(_COLOURS)]
        draw.rectangle(face.box_xyxy, outline=colour, width=max(2, round(unit / 3)))
        label = _label(face)
        _, _, right, bottom = draw.multiline_textbbox((0, 0), label, font=font)
        x = min(max(0, face.box_xyxy[0]), max(0, picture.width - right - 8))
        y = face.box_xyxy[1] - bottom - 8
        if y < 0:  # no room above
            y = min(face.box_xyxy[3], picture.height - bottom - 8)
        draw.rectangle((x, y, x + right + 8, y + bottom + 8), fill=colour)
        draw.multiline_text((x + 4, y + 2), label, fill="white", font=font)
    return picture


def _label(face: Face) -> str:
    parts = [f"{face.id}  {face.emotion.label or '?'}" if face.emotion else f"{face.id}"]
    if face.action_units is not None:
        parts.append(" ".join(unit.id for unit in face.action_units if unit.present))
    return "\n".join(filter(None, parts))

"""The annotated picture of an analysis with the words about every face below it, in type that a phone shows well."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from sdk.faba.vocabulary import ACTION_UNITS
from sdk.faces.images import ImageSource, load_again
from sdk.printable import printable
from sdk.records import AnalysisRecord, Face
from sdk.render import annotate, face_colour, text_width, write

_MIN_SIDE, _MAX_SIDE = 960, 1600  # pixels of the longer side of the picture
_MIN_WIDTH = 720  # pixels of the figure
_SPARSE = 3  # faces that have the whole width each; more have two columns
_EXPLAINED = 8  # faces that have their words; of a larger crowd only labels and units are listed
_MIN_SCORE = 0.05  # lowest score that is drawn
_TEXT_COLOUR, _HEADING_COLOUR, _OUTLINE = "#444444", "#777777", "#bbbbbb"
_SPACING = 1.35  # height of a line over the size of its type
_NO_FACE = 'If the picture is the crop of one face, pass faces="aligned".'


def figure(image: ImageSource, analysis: AnalysisRecord) -> Image.Image:
    """Draw the annotated picture; below it each face with its emotion, its action units, and the words about them.

    Up to three faces are below each other, more in two columns. A crowd of more than eight has no words, only labels
    and units. With scores, each unit has a bar as long as its score. Without scores, the units have no bars, because a
    full bar would look like certainty. Small pictures are enlarged and large ones reduced to keep the text readable.
    The notice of the model is at the end.

    Args:
        image: the analysed picture; see `sdk.faces.images.load_again`.
    """
    picture = _scaled(Image.fromarray(load_again(image, analysis.image_size)))
    faces, scale = analysis.faces, picture.width / max(analysis.image_size[0], 1)
    width, columns = max(picture.width, _MIN_WIDTH), 1 if len(faces) <= _SPARSE else 2
    size = round(width / (32 if columns == 1 else 40))
    block = partial(_block, width=(width - size * (columns + 1)) // columns, size=size)
    blocks = [
        block(_title(face), face_colour(face.id), _lines(face, len(faces)), portrait=_portrait(picture, face, scale))
        for face in faces
    ]
    blocks = blocks or [block("no face found", _HEADING_COLOUR, [_Line(_NO_FACE)])]
    notice = _block("", "", [_Line(analysis.model.notice or "")], width - 2 * size, size)
    return _arranged(annotate(np.asarray(picture), analysis, units=False), width, blocks, columns, notice, size)


class _Line(NamedTuple):
    text: str
    colour: str = _TEXT_COLOUR
    bar: float | None = None  # length in 0..1


def _scaled(picture: Image.Image) -> Image.Image:
    zoom = min(max(1.0, _MIN_SIDE / max(picture.size)), _MAX_SIDE / max(picture.size))
    size = (max(1, round(picture.width * zoom)), max(1, round(picture.height * zoom)))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _portrait(picture: Image.Image, face: Face, scale: float) -> Image.Image:
    """The square around a face; black beyond the picture."""
    x1, y1, x2, y2 = (scale * edge for edge in face.box_xyxy)
    half = min(max(1.0, x2 - x1, y2 - y1), 2 * max(picture.size)) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return picture.crop((round(x - half), round(y - half), round(x + half) + 1, round(y + half) + 1))


def _title(face: Face) -> str:
    if face.emotion is None:
        return f"face {face.id}"
    scores, label = face.emotion.scores, face.emotion.label
    return f"face {face.id}  {label or 'no label'}" + (f"  {scores[label]:.2f}" if scores and label else "")


def _lines(face: Face, faces: int) -> Iterator[_Line]:
    """The description of the emotion, then each unit with its reason; in a crowd the units alone."""
    if faces > _EXPLAINED:
        yield _Line(" ".join(unit.id for unit in face.action_units or () if unit.present), "black")
        return
    if face.emotion:
        yield _Line(face.emotion.description)
    shown: dict[int, float | None]
    if face.action_unit_scores is not None:
        shown = {int(name[2:]): score for name, score in face.action_unit_scores.items() if score >= _MIN_SCORE}
    else:
        shown = {unit.code: None for unit in face.action_units or () if unit.present}
    reason_of = {unit.code: unit.reason for unit in face.action_units or ()}
    for code, score in sorted(shown.items()):
        yield _Line(f"AU{code} {ACTION_UNITS[code]}", "black", score)
        yield _Line(reason_of.get(code, ""))


def _block(
    title: str,
    colour: str,
    lines: Iterable[_Line],
    width: int,
    size: int,
    portrait: Image.Image | None = None,
) -> Image.Image:
    """Draw a heading on a colour, with the portrait at its left, and wrapped lines below; no heading without title.

    Args:
        width: of the block in pixels.
        size: of the type in pixels.
    """
    step, head = round(_SPACING * size), 2 * size if title else 0
    wrapped = [(line, part) for line in lines for part in _wrap(line, width, size)]
    block = Image.new("RGB", (width, head + step * len(wrapped) + size), "white")
    draw, left = ImageDraw.Draw(block), size // 2
    if title:
        draw.rectangle((0, 0, width, head - 1), fill=colour)
        if portrait:
            block.paste(portrait.resize((head, head), Image.Resampling.BICUBIC), (0, 0))
            left += head
        write(block, (left, size // 3), title, size, "white")
    for row, (line, part) in enumerate(wrapped):
        y = head + step * row + size // 4
        write(block, (0, y), part, size, line.colour)
        if line.bar is not None:
            x, full = round(0.72 * width), round(0.28 * width) - 1
            draw.rectangle((x, y + size // 6, x + full, y + size), outline=_OUTLINE)
            draw.rectangle((x, y + size // 6, x + round(full * line.bar), y + size), fill=colour)
    return block


def _wrap(line: _Line, width: int, size: int) -> list[str]:
    """The parts of a line that fit into the width, measured with the type they are drawn in."""
    room = width if line.bar is None else round(0.7 * width)
    columns, text = max(8, 9 * room // (4 * size)), printable(line.text)
    parts = textwrap.wrap(text, columns)
    while columns > 8 and any(text_width(part, size) > room for part in parts):
        columns -= 2
        parts = textwrap.wrap(text, columns)
    return parts


def _arranged(
    picture: Image.Image, width: int, blocks: Sequence[Image.Image], columns: int, notice: Image.Image, margin: int
) -> Image.Image:
    """The picture on top, each block in the column that is shortest so far, the notice at the end."""
    ends, places = [picture.height + margin] * columns, []
    for block in blocks:
        column = ends.index(min(ends))
        places.append((margin + column * (block.width + margin), ends[column]))
        ends[column] += block.height
    canvas = Image.new("RGB", (width, max(ends) + notice.height), "white")
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    for block, place in zip([*blocks, notice], [*places, (margin, max(ends))], strict=True):
        canvas.paste(block, place)
    return canvas

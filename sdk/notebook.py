"""An analysis as HTML, as notebooks show it: the annotated picture and a table of the faces."""

import base64
import html
from io import BytesIO

import numpy as np
from PIL import Image

from sdk.arrays import Pixels
from sdk.html import table
from sdk.records import AnalysisRecord, Face
from sdk.render import annotate

_SIDE = 640  # pixels of the picture at most


def notebook_html(analysis: AnalysisRecord, image: Pixels | None) -> str:
    """Make a piece of HTML that needs no other file.

    Args:
        image: (H, W, 3) uint8 RGB: the analysed picture; None leaves it out and says how to get it.
    """
    picture = "<p>The picture was not kept: open the Analyzer with keep_image=True to see it here.</p>"
    if image is not None:
        picture = f'<img alt="{html.escape(analysis.source)}" src="data:image/jpeg;base64,{_jpeg(image, analysis)}">'
    head = ("face", "emotion", "action units", "description")
    faces = table(analysis.source, head, map(_row, analysis.faces)) if analysis.faces else "<p>No face was found.</p>"
    notes = [*analysis.warnings, *filter(None, [analysis.model.notice])]
    return f"<div>{picture}{faces}" + "".join(f"<p>{html.escape(note)}</p>" for note in notes) + "</div>"


def _jpeg(image: Pixels, analysis: AnalysisRecord) -> str:
    picture, content = Image.fromarray(image), BytesIO()
    picture.thumbnail((_SIDE, _SIDE))
    annotate(np.asarray(picture), analysis, units=False).save(content, "JPEG", quality=85)
    return base64.b64encode(content.getvalue()).decode()


def _row(face: Face) -> tuple[str, ...]:
    units = ", ".join(f"{unit.id} {unit.name}" for unit in face.action_units or () if unit.present)
    label, words = (face.emotion.label or "no label", face.emotion.description) if face.emotion else ("", "")
    return str(face.id), label, units, words

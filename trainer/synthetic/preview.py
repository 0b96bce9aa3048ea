"""A contact sheet of rendered faces."""

import io
from pathlib import Path

from PIL import Image, ImageDraw

from sdk.errors import DataError
from sdk.faces.images import load_image
from sdk.files import read_lines, write_file

COLUMNS, FACES, SIDE, CAPTION = 8, 48, 160, 26  # faces across and in all, pixels of a face and of the lines below it


def preview(folder: Path, path: Path) -> None:
    """Write the first 48 faces of a synthesized set as one PNG, each with its emotion and action units below.

    Args:
        folder: output of `synthesize`.
        path: file to write; an existing one is replaced.

    Raises:
        DataError: the folder holds no synthesized set, or a line of its metadata is broken.
    """
    metadata = folder / "metadata.jsonl"
    if not metadata.is_file():
        raise DataError(f"{folder} has no metadata.jsonl: expected a folder that emola data synthesize wrote")
    faces = read_lines(metadata, id=str, units=dict)[:FACES]
    sheet = Image.new("RGB", (COLUMNS * SIDE, -(-len(faces) // COLUMNS) * (SIDE + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, face in enumerate(faces):
        left, top = index % COLUMNS * SIDE, index // COLUMNS * (SIDE + CAPTION)
        picture = Image.fromarray(load_image(folder / "images" / f"{face['id']}.jpg"))
        sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR), (left, top))
        units = " ".join(f"{code}" for code in sorted(map(int, face["units"])))
        draw.text(
            (left + 3, top + SIDE), f"{face['emotion'] or '-'}\n{'AU ' + units if units else 'no AU'}", fill="black"
        )
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_file(path, buffer.getvalue())

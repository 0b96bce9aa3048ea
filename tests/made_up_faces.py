"""`python tests/made_up_faces.py FOLDER`: a drawn training and held-out set in the FABA-Instruct layout, for a laptop.

Three emotions, each a mouth, brows and a colour of skin; two wordings of each answer. A stand-in for the landmark
network lies beside them. A model that looks learns it in minutes; one that does not cannot score above a third.
"""

import json
import random
import sys
from pathlib import Path

from landmark_network import write_landmark_network
from PIL import Image, ImageDraw

EMOTIONS = {  # skin, mouth: arc from angle to angle (y up or down), official label, answers
    "happiness": ((250, 210, 120), (20, 160), 0, ("Happiness: the mouth smiles.", "Happiness, smiling.")),
    "sadness": ((110, 130, 210), (200, 340), 1, ("Sadness: the mouth turns down.", "Sadness, turned down.")),
    "anger": ((220, 80, 70), (170, 370), 3, ("Anger: the brows are low.", "Anger, frowning.")),
}
QUESTION = "What emotions are conveyed by this face?"


def write_faces(folder: Path, train: int = 48, held_out: int = 12) -> None:
    draw = random.Random(0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("eval", held_out)):
        rows = [_row(folder, f"{split}{index:03d}", list(EMOTIONS)[index % 3], draw, split) for index in range(count)]
        (folder / f"{split}_emotion_anno.json").write_text(json.dumps(rows, indent=1))
    write_landmark_network(folder / "landmark.onnx")


def _row(folder: Path, name: str, emotion: str, draw: random.Random, split: str) -> dict:
    _, _, label, answers = EMOTIONS[emotion]
    files = {"image": f"images/{name}.png", "landmark": f"landmarks/{name}.npy"}
    _face(emotion, draw).save(folder / files["image"])
    if split == "eval":
        return {**files, "label": label, "gpt4": answers[0]}
    turns = [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": draw.choice(answers)}]
    return {**files, "id": name, "source": "drawn", "conversations": turns}


def _face(emotion: str, draw: random.Random) -> Image.Image:
    """A face of 96 pixels, its place, light and background made up."""
    skin, mouth, _, _ = EMOTIONS[emotion]
    light = draw.uniform(0.8, 1.1)
    colour = tuple(min(255, int(part * light)) for part in skin)
    image = Image.new("RGB", (96, 96), tuple(draw.randint(0, 60) for _ in range(3)))
    canvas, x, y = ImageDraw.Draw(image), draw.randint(-4, 4), draw.randint(-4, 4)
    canvas.ellipse((16 + x, 8 + y, 80 + x, 90 + y), fill=colour)
    for left in (32, 54):
        canvas.ellipse((left + x, 34 + y, left + 10 + x, 42 + y), fill="white")
        tilt = 6 if emotion == "anger" else 0
        inner = (left + 10 if left < 40 else left) + x
        outer = (left if left < 40 else left + 10) + x
        canvas.line((outer, 28 + y, inner, 28 + tilt + y), fill="black", width=2)
    canvas.arc((34 + x, 54 + y, 62 + x, 76 + y), *mouth, fill="black", width=3)
    return image


if __name__ == "__main__":
    write_faces(Path(sys.argv[1]))

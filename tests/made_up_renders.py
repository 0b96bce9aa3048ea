"""A folder as `emola data synthesize` writes it, with drawn pictures (two eyes and a mouth) that need no face model."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sdk.faba.prompts import QUESTIONS
from trainer.corpus.records import Record, evaluation_row, training_row
from trainer.pretrain.renders import MIRRORED_LANDMARKS

SIDE = 224
ANSWERS = {
    True: ("The person appears very happy.", "1. AU12 (Lip Corner Puller): The corners of the mouth are pulled up.", 0),
    False: ("The face appears neutral.", "No action units are visible in this face.", 4),
}


def write_made_up_renders(folder: Path, count: int, seed: int = 0, split: str = "train") -> Path:
    """Faces that smile or do not: the mouth is bright or dark, the rest is random."""
    random = np.random.default_rng(seed)
    for name in ("images", "landmarks"):
        (folder / name).mkdir(parents=True)
    rest = np.random.default_rng(0).uniform(-0.5, 0.5, (106, 2))
    rest = (rest + rest[MIRRORED_LANDMARKS] * (-1, 1)) / 2  # as symmetric as a face
    metadata, points, rows = [], [], {"emotion": [], "au": []}
    for index in range(count):
        smiles, name = bool(index % 2), f"{index:06d}"
        scale, angle, shift = random.uniform(0.8, 1.1), random.normal(0, 0.15), random.normal(0, 0.06, 2)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        placed = (rest @ turn.T + shift).astype(np.float32)
        _draw(placed, smiles, random).save(folder / "images" / f"{name}.jpg", quality=92)
        np.save(folder / "landmarks" / f"{name}.npy", placed.reshape(-1))
        points.append(placed)
        about = {"emotion": "happiness" if smiles else "neutral", "units": {"12": 0.8} if smiles else {}}
        metadata.append({"id": name, **about, "tone": 3.0, "yaw": 0.0, "pitch": 0.0, "roll": 0.0})
        emotion, units, label = ANSWERS[smiles]
        for task, question, text, target in (
            ("emotion", QUESTIONS["emotion"], emotion, label),
            ("au", QUESTIONS["action_units"], units, "12" if smiles else ""),
        ):
            image, landmark = (f"{folder.name}/{part}/{name}" for part in ("images", "landmarks"))
            record = Record(name, folder.parent, f"{image}.jpg", f"{landmark}.npy", question, text, target)
            rows[task].append(training_row(record, "made up") if split == "train" else evaluation_row(record))
    np.save(folder / "points.npy", np.stack(points))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metadata))
    (folder / "landmarks" / "about.json").write_text(json.dumps({"mode": "insightface", "face_scale": 1.5}))
    for task, content in rows.items():
        (folder / f"{split}_{task}_anno.json").write_text(json.dumps(content))
    return folder


def _draw(points: np.ndarray, smiles: bool, random: np.random.Generator) -> Image.Image:
    picture = Image.new("RGB", (SIDE, SIDE), tuple(random.integers(40, 90, 3).tolist()))
    draw = ImageDraw.Draw(picture)
    places = (points + 1) * SIDE / 2
    for index, radius, colour in ((36, 14, "white"), (45, 14, "white"), (62, 26, "yellow" if smiles else "black")):
        x, y = places[index]
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    return picture

"""Options of the detector's training; imports no torch, so that the help of its command works without it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DetectorRecipe:
    """Options of `trainer.detector.build.build_detector`.

    Attributes:
        face_model: ICT-FaceKit, see `trainer.synthetic.face_model.read_face_model`.
        pictures: folder of pictures without faces, for backgrounds; those with transparent pixels are pasted as
            objects.
        heads, scenes: how many are made.
        empty: scenes without faces, in which false faces are looked for.
        steps: length of the training; the later seven sixteenths are taken twice.
        batch_size: a third of the windows of a step.
        learning_rate: peak of AdamW's in the later part, twice that in the first; see `trainer.detector.train`.
        seed: decides heads, scenes and training.
        processes: that render and compose.
    """

    face_model: Path
    pictures: Path
    heads: int = 3000
    scenes: int = 11000
    empty: int = 2500
    steps: int = 16000
    batch_size: int = 16
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    seed: int = 1
    processes: int = 2

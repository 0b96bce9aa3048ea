"""Options of the pretraining; imports no torch, so that `emola pretrain --help` works without it."""

from dataclasses import dataclass, field

LANDMARK_EPOCHS = 10


def _is_fast() -> bool:
    from trainer.model.processor import multiplies_bfloat16

    return multiplies_bfloat16()


@dataclass(frozen=True)
class TowerRecipe:
    """Options of the pretraining of the vision tower.

    Attributes:
        epochs, batch_size: length of the training and of a step.
        learning_rate: peak, of Muon for the matrices of the layers and of AdamW for the rest; the schedule is a linear
            warm-up of 5 % and a cosine to zero.
        bfloat16: multiply in bfloat16, about twice as fast on processors that have it; others emulate it slowly.
    """

    epochs: int = 18
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    bfloat16: bool = field(default_factory=_is_fast)
    seed: int = 1

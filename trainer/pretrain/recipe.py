"""Options of the pretraining; imports no torch, so that `emola pretrain --help` works without it."""

from dataclasses import dataclass, field

LANDMARK_EPOCHS = 10


def _is_fast() -> bool:
    from trainer.model.processor import multiplies_bfloat16

    return _device() == "cuda" or multiplies_bfloat16()


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class TowerRecipe:
    """Options of the pretraining of the vision tower.

    Attributes:
        epochs, batch_size: length of the training and of a step.
        learning_rate: peak, of Muon for the matrices of the layers and of AdamW for the rest; the schedule is a linear
            warm-up of 5 % and a cosine to zero.
        device: "cuda" where torch has it, else "cpu"; the landmark network is trained there too.
        bfloat16: multiply in bfloat16, about twice as fast on processors that have it; others emulate it slowly.
    """

    epochs: int = 18
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    device: str = field(default_factory=_device)
    bfloat16: bool = field(default_factory=_is_fast)
    seed: int = 1

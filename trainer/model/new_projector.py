"""A landmark projector that is trained from the start."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from trainer.model.config import EmolaConfig
from trainer.model.emola import new_landmark_projector

PROJECTOR = "landmark_feature_projector."  # beginning of the names of its weights


class NewProjector(Mapping[str, Tensor]):
    """An untrained landmark projector as a source of weights."""

    def __init__(self, config: EmolaConfig, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._projector = new_landmark_projector(config)
        self._tensors: dict[str, Tensor] = {
            f"{PROJECTOR}{name}": tensor for name, tensor in self._projector.state_dict().items()
        }

    def measure(self, features: Tensor) -> None:
        """Let the prior set its statistics, if it has any; the tensors are those of the module."""
        measure = getattr(self._projector[0], "measure", None)
        if measure:
            measure(features)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self[name].shape)

    def describe(self, name: str) -> str:
        return f"{name} of the new landmark projector"

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

"""Muon (Jordan et al. 2024): orthogonalised momentum, for the matrices of a transformer's layers.

`torch.optim.Muon` processes one matrix at a time, in bfloat16. This one processes all matrices of one shape at once, in
float32: on processors that emulate bfloat16, torch's version takes three times as long as the network itself.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)  # steep at zero; singular values end between about 0.7 and 1.2
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum of 0.95, orthogonalised, with the step size of AdamW (Liu et al. 2025) and decoupled decay.

    Args:
        matrices: two-dimensional parameters.
        lr, weight_decay: as of AdamW.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                alike.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in alike.items():
                directions = orthogonal(torch.stack([self._momentum(matrix) for matrix in matrices]))
                step = 0.2 * math.sqrt(max(shape)) * group["lr"]
                for matrix, direction in zip(matrices, directions, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=step)

    def _momentum(self, matrix: Tensor) -> Tensor:
        gradient = matrix.grad
        if gradient is None:
            raise ValueError("a matrix has no gradient: call backward before step")
        mean: Tensor = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
        return gradient.lerp(mean.lerp_(gradient, 0.05), 0.95)


def orthogonal(matrices: Tensor) -> Tensor:
    """(B, M, N) matrices with the same singular vectors and singular values near 1, by the Newton-Schulz iteration."""
    tall = matrices.shape[1] > matrices.shape[2]
    found: Tensor = matrices.mT if tall else matrices
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    linear, cubic, quintic = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = found @ found.mT
        found = linear * found + (cubic * gram + quintic * gram @ gram) @ found
    return found.mT if tall else found

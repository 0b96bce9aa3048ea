"""Linear layers in 4 or 8 bits for ONNX Runtime's MatMulNBits: symmetric, one scale per group of inputs."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdk.arrays import Floats
from sdk.errors import ExportError

GROUPS = (128, 64, 32, 16)  # the sizes that MatMulNBits takes
GROUP = GROUPS[0]


@dataclass(frozen=True)
class QuantizedLinear:
    """A linear layer y = x W^T with W[n, k] = (values[n, k] - 2^(bits-1)) * scales[n, k // group].

    Attributes:
        values: (N, K) uint8 in 0 .. 2^bits - 1.
        scales: (N, K / group) float32.
        bits: 3, 4 or 8.
        group: inputs that share a scale.
    """

    values: npt.NDArray[np.uint8]
    scales: Floats
    bits: int
    group: int

    def dequantize(self) -> Floats:
        """The (N, K) float32 weight."""
        weight: Floats = self.values.astype(np.float32) - 2 ** (self.bits - 1)
        weight *= np.repeat(self.scales, self.group, axis=1)
        return weight

    @classmethod
    def stack(cls, layers: "list[QuantizedLinear]") -> "QuantizedLinear":
        """Join layers that have the same inputs into one layer with all their outputs."""
        values = np.concatenate([layer.values for layer in layers])
        scales = np.concatenate([layer.scales for layer in layers])
        return cls(values, scales, layers[0].bits, layers[0].group)

    def split(self, outputs: list[int]) -> "list[QuantizedLinear]":
        """Undo `stack`, given the number of outputs of each layer."""
        cuts = np.cumsum(outputs)[:-1]
        pairs = zip(np.split(self.values, cuts), np.split(self.scales, cuts), strict=True)
        return [QuantizedLinear(values, scales, self.bits, self.group) for values, scales in pairs]

    def widen(self) -> "QuantizedLinear":
        """Store the same weights in 4 bits if they have 3, for readers without a format of 3 bits."""
        return QuantizedLinear(self.values + 4, self.scales, 4, self.group) if self.bits == 3 else self

    def packed(self) -> npt.NDArray[np.uint8]:
        """The (N, K / group, group * bits / 8) uint8 weight of MatMulNBits; the low half is the first of two values."""
        blocks: npt.NDArray[np.uint8] = self.values.reshape(len(self.values), -1, self.group)
        return blocks if self.bits == 8 else blocks[..., ::2] | blocks[..., 1::2] << np.uint8(4)


def fitting_group(size: int) -> int:
    """The largest group of MatMulNBits that divides a number of inputs.

    Raises:
        ExportError: none divides it.
    """
    for group in GROUPS:
        if size % group == 0:
            return group
    raise ExportError(f"a linear layer with {size} inputs cannot be quantised: the size must be a multiple of 16")


def round_to_nearest(weight: Floats, bits: int = 4) -> QuantizedLinear:
    """Quantise each group on its own with a scale that makes the value of largest magnitude exact.

    Args:
        weight: (N, K) float32.
        bits: 4 or 8.
    """
    group = fitting_group(weight.shape[1])
    half = 2 ** (bits - 1)
    groups = weight.reshape(len(weight), -1, group)
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[..., None], axis=2)
    scales = extreme / -half
    steps = np.divide(groups, scales, out=np.zeros_like(groups), where=scales != 0)
    values = (np.rint(steps) + half).clip(0, 2 * half - 1).astype(np.uint8)
    return QuantizedLinear(values.reshape(weight.shape), scales[..., 0].astype(np.float32), bits, group)

"""Linear layers in 4 or 8 bits as ONNX Runtime's MatMulNBits has them: symmetric, one scale per group of inputs."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdk.errors import ExportError

GROUP = 128


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
    scales: npt.NDArray[np.float32]
    bits: int
    group: int

    def dequantize(self) -> npt.NDArray[np.float32]:
        """(N, K) float32."""
        centred = self.values.astype(np.float32) - 2 ** (self.bits - 1)
        return centred * np.repeat(self.scales, self.group, axis=1)

    @classmethod
    def stack(cls, layers: "list[QuantizedLinear]") -> "QuantizedLinear":
        """Layers with the same inputs as one layer with all their outputs."""
        values, scales = (np.concatenate([getattr(layer, part) for layer in layers]) for part in ("values", "scales"))
        return cls(values, scales, layers[0].bits, layers[0].group)

    def split(self, outputs: list[int]) -> "list[QuantizedLinear]":
        """The inverse of `stack`, given the number of outputs of each layer."""
        cuts = np.cumsum(outputs)[:-1]
        pairs = zip(np.split(self.values, cuts), np.split(self.scales, cuts), strict=True)
        return [QuantizedLinear(values, scales, self.bits, self.group) for values, scales in pairs]

    def widen(self) -> "QuantizedLinear":
        """3 bits as 4, for readers that know no 3: the same weights."""
        return QuantizedLinear(self.values + 4, self.scales, 4, self.group) if self.bits == 3 else self

    def packed(self) -> npt.NDArray[np.uint8]:
        """(N, K / group, group * bits / 8) uint8; of two 4-bit values the first is in the low half."""
        blocks = self.values.reshape(len(self.values), -1, self.group)
        return blocks if self.bits == 8 else blocks[..., ::2] | blocks[..., 1::2] << 4


def fitting_group(size: int) -> int:
    """The largest group up to 128 that divides a number of inputs; MatMulNBits takes 16, 32, 64 and 128.

    Raises:
        ExportError: none of them divides it.
    """
    for group in (128, 64, 32, 16):
        if size % group == 0:
            return group
    raise ExportError(f"a linear layer with {size} inputs cannot be quantised: the size must be a multiple of 16")


def round_to_nearest(weight: npt.NDArray[np.float32], bits: int = 4) -> QuantizedLinear:
    """Quantise each group on its own: the value of largest magnitude is met exactly.

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

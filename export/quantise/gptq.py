"""GPTQ (Frantar et al., ICLR 2023): quantise a linear layer so that its outputs on calibration rows change least.

Columns are rounded one after the other. The columns that are not yet rounded compensate each rounding error, weighted
by the inverse Hessian of the layer's inputs (algorithm 1 of the paper). The column with the largest diagonal comes
first ("activation order"). Scales are fixed beforehand for the groups of the original order ("static groups"), so that
nothing is reordered at run time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from export.quantise.linear import GROUPS, QuantizedLinear
from sdk.errors import ExportError

_BLOCK = 128  # columns whose errors are passed to the other columns in one multiplication
_STRIPE = 2048  # columns of the Hessian that are updated together
_SHARES = torch.linspace(1.0, 0.7, 7)  # candidates for the scale, as shares of the one that clips nothing


@dataclass(frozen=True)
class GptqOptions:
    """How to quantise.

    Attributes:
        bits: 3, 4 or 8.
        group: inputs that share a scale: 16, 32, 64 or 128.
        damping: share of the mean diagonal that is added to the Hessian's diagonal.
        activation_order: round the columns with the largest inputs first.
    """

    bits: int = 4
    group: int = 128
    damping: float = 0.01
    activation_order: bool = True

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Check that a layer can be quantised with these options.

        Args:
            name: of the layer, for the message.
            shape: (N, K) of its weight.

        Raises:
            ExportError: it cannot; the message says which group fits.
        """
        if self.bits not in (3, 4, 8):
            raise ExportError(f"GPTQ in {self.bits} bits is not supported; choose 3, 4 or 8")
        outputs, inputs = shape
        fitting = [str(group) for group in GROUPS if inputs % group == 0]
        if str(self.group) not in fitting:
            choice = f"choose a group of {', '.join(fitting)}" if fitting else "such a layer cannot be quantised"
            raise ExportError(f"group {self.group} does not divide the {inputs} inputs of {name}; {choice}")
        if outputs % 32 or inputs % 32:
            raise ExportError(f"{name} is {outputs} x {inputs}; the AutoGPTQ layout needs multiples of 32")


class Hessian:
    """X^T X of all rows that flow into a linear layer, collected in float32.

    Args:
        inputs: K.
        device: that holds it.
    """

    def __init__(self, inputs: int, device: torch.device | str = "cpu") -> None:
        self._sum = torch.zeros(inputs, inputs, device=device)
        self.rows = 0

    def add(self, rows: Tensor) -> None:
        """Add (T, K) rows; computes only the upper half."""
        rows = rows.float()
        for start in range(0, len(self._sum), _STRIPE):
            stripe = self._sum[start : start + _STRIPE, start:]
            stripe.addmm_(rows[:, start : start + _STRIPE].T, rows[:, start:])
        self.rows += len(rows)

    def finish(self) -> Tensor:
        """Return the symmetric (K, K) mean over the rows; the object cannot be used afterwards."""
        found = self._sum.triu_()
        found += found.triu(1).T
        del self._sum
        return found.div_(max(self.rows, 1))


def quantise(weight: Tensor, hessian: Tensor, options: GptqOptions) -> QuantizedLinear:
    """Quantise one layer, or several with the same inputs side by side.

    Args:
        weight: (N, K).
        hessian: (K, K) of `Hessian.finish`, on the device that computes.
        options: how to quantise.

    Raises:
        ExportError: the Hessian is not positive definite even with strong damping: the calibration rows are not finite.
    """
    weight = weight.to(hessian.device, torch.float32)
    importance = hessian.diagonal().clone()
    scales = search_scales(weight, importance, options)
    order = importance.argsort(descending=True, stable=True)
    if not options.activation_order:
        order = torch.arange(len(importance), device=weight.device)
    factor = _inverse_factor(hessian, order, options.damping)
    values = torch.empty_like(weight, dtype=torch.uint8)
    values[:, order] = _round(weight.T[order], factor, scales.T[order // options.group], options.bits).T
    return QuantizedLinear(values.cpu().numpy(), scales.cpu().numpy(), options.bits, options.group)


def _round(columns: Tensor, factor: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Algorithm 1 of the paper.

    Args:
        columns: (K, N) columns of the weight in the order of rounding; overwritten.
        factor: (K, K) upper Cholesky factor of the inverse Hessian.
        scales: (K, N) scale of each weight.

    Returns:
        (K, N) uint8.
    """
    half = 2 ** (bits - 1)
    values = torch.empty_like(columns, dtype=torch.uint8)
    for start in range(0, len(columns), _BLOCK):
        end = min(start + _BLOCK, len(columns))
        block, errors = columns[start:end], torch.empty_like(columns[start:end])
        for i in range(end - start):
            k = start + i
            steps = block[i].div(scales[k]).round_().clamp_(-half, half - 1)
            values[k] = steps + half
            errors[i] = (block[i] - steps * scales[k]) / factor[k, k]
            block[i + 1 :].addr_(factor[k, k + 1 : end], errors[i], alpha=-1)
        columns[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return values


def search_scales(weight: Tensor, importance: Tensor, options: GptqOptions) -> Tensor:
    """Find for each group the share of the full range with the least weighted error.

    Args:
        weight: (N, K).
        importance: (K,) diagonal of the Hessian.
        options: how to quantise.

    Returns:
        (N, K / group) scales, exact in float16.
    """
    half = 2 ** (options.bits - 1)
    groups = weight.view(len(weight), -1, options.group)
    cost = importance.clamp(min=1e-12).view(-1, options.group)
    full = groups.abs().amax(dim=2) / (half - 0.5)
    full = torch.where(full > 0, full, 1.0)
    best, least = full, torch.full_like(full, torch.inf)
    for share in _SHARES.tolist():
        scales = (full * share).half().float().clamp(min=2.0**-24)
        found = groups / scales[..., None]
        found = found.round_().clamp_(-half, half - 1).mul_(scales[..., None]).sub_(groups).square_().mul_(cost)
        error = found.sum(dim=2)
        best, least = torch.where(error < least, scales, best), torch.minimum(error, least)
    return best


def _inverse_factor(hessian: Tensor, order: Tensor, damping: float) -> Tensor:
    """The upper U with U^T U = H^-1, for the reordered H with damping: the inverse of H's factor from below."""
    reverse = order.flip(0)
    for share in (damping, 10 * damping, 100 * damping):
        turned = hessian[reverse][:, reverse]
        turned.diagonal().add_(share * hessian.diagonal().mean() + 1e-12)
        lower, failed = torch.linalg.cholesky_ex(turned)
        if not failed:
            return _invert_lower(lower).flip(0, 1)
    raise ExportError(
        "the Hessian of the calibration rows is not positive definite: they hold NaN or infinite numbers; check the "
        "adapter"
    )


def _invert_lower(lower: Tensor) -> Tensor:
    """The inverse of a lower triangular matrix, block by block: a third of the products of `solve_triangular`."""
    size = len(lower)
    if size <= _STRIPE:
        inverse: Tensor = torch.linalg.solve_triangular(lower, torch.eye(size, device=lower.device), upper=False)
        return inverse
    half = size // 2
    inverse = torch.zeros_like(lower)
    inverse[:half, :half] = _invert_lower(lower[:half, :half])
    inverse[half:, half:] = _invert_lower(lower[half:, half:])
    inverse[half:, :half] = -inverse[half:, half:] @ (lower[half:, :half] @ inverse[:half, :half])
    return inverse


def relative_error(weight: Tensor, linear: QuantizedLinear, hessian: Tensor) -> float:
    """The norm of the change of a layer's outputs over the norm of its outputs, on the rows of a Hessian.

    Of a wide layer some 512 evenly spaced outputs are measured: all would take half the time of GPTQ itself.

    Args:
        weight: (N, K) before it was quantised.
        linear: the quantised layer.
        hessian: (K, K) of its inputs.
    """
    some = slice(None, None, max(1, len(weight) // 512))
    weight = weight[some].to(hessian.device, torch.float32)
    kept = QuantizedLinear(linear.values[some], linear.scales[some], linear.bits, linear.group)
    change = torch.from_numpy(kept.dequantize()).to(hessian.device).sub_(weight)
    return float((_energy(change, hessian) / _energy(weight, hessian).clamp(min=1e-30)).sqrt())


def _energy(weight: Tensor, hessian: Tensor) -> Tensor:
    return ((weight @ hessian) * weight).sum()

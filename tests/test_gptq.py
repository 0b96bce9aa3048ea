"""The GPTQ solver against the formulas of the paper, written out the slow way."""

import numpy as np
import pytest
import torch

from export.quantise.gptq import GptqOptions, Hessian, quantise, relative_error, search_scales
from export.quantise.linear import round_to_nearest
from sdk.errors import ExportError

INPUTS, OUTPUTS = 256, 48


@pytest.fixture(scope="module")
def rows():
    """Correlated rows with a common offset, as activations are."""
    random = torch.Generator().manual_seed(0)
    mixing = torch.randn(INPUTS, INPUTS, generator=random) / 16
    return torch.randn(2000, INPUTS, generator=random) @ mixing + 0.5


@pytest.fixture(scope="module")
def weight():
    return 0.05 * torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(1))


def collect(*parts) -> torch.Tensor:
    hessian = Hessian(INPUTS)
    for part in parts:
        hessian.add(part)
    return hessian.finish()


def test_the_hessian_is_the_mean_of_outer_products(rows):
    """However the rows come, within float32's 1e-5."""
    expected = (rows.double().T @ rows.double()) / len(rows)
    for parts in ((rows,), rows.split(333)):
        found = collect(*parts)
        assert torch.equal(found, found.T)
        assert (found - expected).norm() < 1e-5 * expected.norm()


def by_elimination(weight, hessian, scales, options) -> np.ndarray:
    """Optimal brain quantisation, one column at a time: equations 2 and 3 of the paper, in float64."""
    damped = hessian.double().numpy() + options.damping * float(hessian.diagonal().mean()) * np.eye(INPUTS)
    order = np.argsort(-hessian.diagonal().numpy(), kind="stable") if options.activation_order else np.arange(INPUTS)
    weight, scales = weight.double().numpy().copy(), scales.double().numpy()
    inverse, half = np.linalg.inv(damped), 2 ** (options.bits - 1)
    values = np.zeros(weight.shape, np.uint8)
    for column in order:
        scale = scales[:, column // options.group]
        steps = np.rint(weight[:, column] / scale).clip(-half, half - 1)
        values[:, column] = steps + half
        error = (weight[:, column] - steps * scale) / inverse[column, column]
        weight -= np.outer(error, inverse[column])
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return values


@pytest.mark.parametrize("activation_order", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(4, 128), (4, 32), (3, 64), (8, 16)])
def test_it_is_the_papers_algorithm(rows, weight, bits, group, activation_order):
    """At least 99 % of the values equal column-by-column elimination in float64."""
    options = GptqOptions(bits, group, activation_order=activation_order)
    hessian = collect(rows)
    expected = by_elimination(weight, hessian, search_scales(weight, hessian.diagonal(), options), options)
    found = quantise(weight, hessian, options).values
    equal = (found == expected).mean()
    assert equal > 0.99, f"{100 * (1 - equal):.2f} % of the values differ"


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_unseen_rows_suffer_less_than_with_rounding_to_nearest(rows, weight, bits, group):
    """The scales of rounding to nearest are of 128 inputs in each case."""
    calibration, unseen = collect(rows[:1500]), collect(rows[1500:])
    ours = relative_error(weight, quantise(weight, calibration, GptqOptions(bits, group)), unseen)
    nearest = relative_error(weight, round_to_nearest(weight.numpy(), bits), unseen)
    assert ours < 0.8 * nearest, f"{ours:.4f} against {nearest:.4f}"


def test_the_relative_error_is_that_of_the_outputs(rows, weight):
    linear = round_to_nearest(weight.numpy())
    expected, found = rows @ weight.T, rows @ torch.from_numpy(linear.dequantize()).T
    measured = relative_error(weight, linear, collect(rows))
    assert measured == pytest.approx(float((found - expected).norm() / expected.norm()), rel=1e-3)


def test_scales_are_exact_in_float16(rows, weight):
    """What the file holds is what the values were rounded with."""
    scales = quantise(weight, collect(rows), GptqOptions()).scales
    np.testing.assert_array_equal(scales, scales.astype(np.float16).astype(np.float32))


def test_inputs_that_never_occur_do_no_harm(rows, weight):
    """Columns of zeros in the rows, a group of zeros in the weight: finite scales, no error beyond the others'."""
    rows, weight = rows.clone(), weight.clone()
    rows[:, 5:40] = 0
    weight[:, 128:] = 0
    linear = quantise(weight, collect(rows), GptqOptions())
    assert np.isfinite(linear.scales).all()
    assert not linear.dequantize()[:, 128:].any()
    assert relative_error(weight, linear, collect(rows)) < 0.1


def test_rows_without_numbers_are_refused(rows, weight):
    with pytest.raises(ExportError, match="NaN or infinite"):
        quantise(weight, collect(torch.full_like(rows, torch.nan)), GptqOptions())


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        (GptqOptions(4, 128), (64, 192), "group 128 does not divide the 192 inputs of x; choose a group of 64, 32, 16"),
        (GptqOptions(4, 128), (64, 100), "such a layer cannot be quantised"),
        (GptqOptions(2, 128), (64, 128), "2 bits is not supported"),
        (GptqOptions(4, 16), (40, 48), "multiples of 32"),
    ],
)
def test_what_does_not_fit_is_refused(options, shape, message):
    with pytest.raises(ExportError, match=message):
        options.check("x", shape)

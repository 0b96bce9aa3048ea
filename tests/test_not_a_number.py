"""Everything passes a threshold of NaN, because every comparison with it is false: it is refused."""

import math

import pytest

from sdk.errors import ExportError


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_thresholds_of_the_gate_and_of_a_check(value):
    pytest.importorskip("torch")
    from export.options import GateOptions
    from export.targets.check import CheckOptions

    for name in ("rege_drop", "latency_factor", "first_tokens"):
        with pytest.raises(ExportError, match=f"{name} must be a finite number, not {value}"):
            GateOptions(**{name: value})
    with pytest.raises(ExportError, match="latency_factor must be a finite number"):
        CheckOptions(latency_factor=value)

"""What device "auto" decodes with on a CPU: the runtime that gives whole answers sooner, as it was measured."""

import logging
from importlib.util import find_spec

import pytest

from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import read_manifest
from sdk.cli import main
from sdk.runtime.backends.cpu_choice import reason_against_openvino, tokens_gained
from sdk.runtime.backends.select import open_backend

LARGE = 1 << 30  # bytes


def test_the_measured_break_evens_and_what_lies_between():
    """docs/performance.md: milliseconds that OpenVINO saves in all prompts, over those that it loses per step."""
    shallow = (3215 - 2031 + 2 * (89 - 55)) / (30.3 - 27.1)
    deep = (27_000 - 21_500 + 2 * (970 - 479)) / (240 - 154)
    assert tokens_gained(4) == pytest.approx(shallow, rel=0.02)
    assert tokens_gained(32) == pytest.approx(deep, rel=0.02)
    found = [tokens_gained(layers) for layers in range(1, 41)]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (tokens_gained(4), tokens_gained(32))


def test_the_length_of_the_answers_decides():
    """Short answers of a deep decoder could be faster in OpenVINO, long ones of any decoder in ONNX Runtime."""
    for layers, tokens, slower in ((32, 340, True), (32, 60, False), (4, 340, False), (4, 500, True)):
        reason = reason_against_openvino(LARGE, layers, tokens)
        assert (reason is not None and "layers OpenVINO is slower" in reason) is slower
    assert "from 75 tokens per face on" in str(reason_against_openvino(LARGE, 32))
    assert "small" in str(reason_against_openvino(1 << 20, 4))
    if not find_spec("openvino"):
        assert reason_against_openvino(LARGE, 4) == "OpenVINO is not installed"


def test_info_and_the_log_say_why(capsys, caplog):
    with caplog.at_level(logging.INFO):
        open_backend(EMBEDDED, read_manifest(EMBEDDED))
    assert "device auto takes ONNX Runtime: OpenVINO steps a small decoder more slowly" in caplog.text
    assert main(["info"]) == 0
    assert "device auto   ONNX Runtime: OpenVINO steps a small decoder more slowly" in capsys.readouterr().out


def test_doctor_says_why(capsys):
    main(["doctor", "--offline"])
    assert "emola-nano on ort-gptq-int4 (OpenVINO steps a small decoder more slowly): 1 face" in capsys.readouterr().out

"""Fixtures: a golden bundle and a decoder of Vicuna's shape, each made once; parity is asserted before timing."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))


@pytest.fixture(scope="session")
def golden_bundle(tmp_path_factory) -> Path:
    from landmark_network import write_landmark_network

    from export.build import export_bundle
    from export.options import ExportOptions

    folder, golden = tmp_path_factory.mktemp("bundle"), ROOT / "tests/data/golden"
    options = ExportOptions(
        adapter=str(golden / "llava-lora-emola-trained"),
        base=str(golden / "llava-base"),
        out=folder / "golden",
        vision_tower=str(golden / "clip"),
        landmark_model=write_landmark_network(folder / "landmark.onnx"),
        quantize="none",
    )
    assert all(parity.passed for parity in export_bundle(options).parity)
    return options.out


def pytest_addoption(parser):
    parser.addoption("--layers", type=int, default=4, help="number of layers of the decoder of Vicuna-7B's shape")


@pytest.fixture(scope="session")
def vicuna(tmp_path_factory, pytestconfig):
    from vicuna import random_vicuna

    return random_vicuna(tmp_path_factory.mktemp("vicuna"), pytestconfig.getoption("layers"))

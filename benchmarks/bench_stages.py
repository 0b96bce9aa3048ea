"""Time each stage of an analysis of scikit-image's `astronaut` with the golden bundle."""

import io
import subprocess
import sys

import pytest
import skimage.data
from PIL import Image

from sdk import Analyzer
from sdk.faces.crop import crop_face
from sdk.faces.detect import open_detector
from sdk.faces.images import load_image
from sdk.faces.preprocess import clip_pixels, landmark_pixels
from sdk.runtime.clock import Clock

PHOTO = skimage.data.astronaut()


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def analyzer(golden_bundle) -> Analyzer:
    return Analyzer(golden_bundle)


@pytest.fixture(scope="module")
def crop():
    (face,) = open_detector("auto").detect(PHOTO)
    return crop_face(PHOTO, face.box_xyxy, 1.7)


def test_import_sdk(benchmark):
    """The cost of `import sdk` is this time minus that of an interpreter that imports nothing."""
    benchmark.pedantic(subprocess.run, ([sys.executable, "-c", "import sdk"],), {"check": True}, rounds=10)


def test_import_nothing(benchmark):
    benchmark.pedantic(subprocess.run, ([sys.executable, "-c", ""],), {"check": True}, rounds=10)


def test_open_bundle(benchmark, golden_bundle):
    benchmark(Analyzer, golden_bundle)


def test_load(benchmark, jpeg):
    assert benchmark(load_image, jpeg).shape == (512, 512, 3)


def test_detect(benchmark):
    detector = open_detector("auto")
    assert len(benchmark(detector.detect, PHOTO)) == 1


def test_crop(benchmark):
    assert benchmark(crop_face, PHOTO, (175.0, 76.0, 266.0, 167.0), 1.7).pixels.shape == (155, 155, 3)


def test_preprocess_336(benchmark, crop):
    def both():
        clip_pixels(crop.pixels, size=336, mean=(0.5,) * 3, std=(0.5,) * 3, aspect="pad")
        landmark_pixels(crop.pixels, mode="insightface", box_xyxy=crop.box_in_crop)

    benchmark(both)


def test_encode(benchmark, analyzer, crop):
    def encode():
        with analyzer.pipeline.encode(crop, Clock()):
            pass

    benchmark(encode)


def test_end_to_end(benchmark, analyzer, jpeg):
    analysis = benchmark(analyzer.analyze, jpeg, max_new_tokens=32)
    assert len(analysis.faces) == 1

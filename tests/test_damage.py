"""A damaged file of a bundle is an SdkError that names it, whatever the library underneath raises."""

import random
import shutil

import numpy as np
import pytest

from sdk import Analyzer, SdkError
from sdk.errors import IntegrityError
from sdk.runtime.ngrams import Ngrams
from sdk.runtime.verify import Reference


@pytest.mark.parametrize("name", ["tokenizer.json", "decoder/embeddings.npy", "landmark.onnx", "vision.onnx"])
def test_a_file_of_the_right_size_and_wrong_content(bundle, tmp_path, name):
    """Its beginning is noise; sizes are checked at every open, hashes are not."""
    folder = shutil.copytree(bundle(), tmp_path / "bundle")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(random.Random(0).randbytes(200) + content[200:])
    with pytest.raises(SdkError, match=name):
        Analyzer(folder)


def test_a_flipped_byte_of_packed_arrays(bundle, tmp_path):
    """Three hundred tables, each with one other byte: read as before, or refused."""
    entries = np.random.default_rng(0).integers(0, 500, (2, 400), dtype=np.int32)
    path = tmp_path / "answers.ngrams"
    Ngrams(np.zeros(400, np.int32), *entries, np.full(400, 0.5, np.float16)).save(path)
    assert _survivors(path, lambda: Ngrams.load(path, 500)) < 150
    reference = tmp_path / "reference.npz"
    shutil.copy(bundle() / "reference.npz", reference)
    assert _survivors(reference, lambda: Reference.load(reference)) < 150


def _survivors(path, load) -> int:
    """How many of three hundred damaged files are read without an error; no error but IntegrityError is raised."""
    content, draw, read = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            load()
            read += 1
        except IntegrityError:
            pass
    return read

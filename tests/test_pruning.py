"""Fewer visual rows: which are kept, what the decoder then reads, and what stays as it was."""

import numpy as np
import pytest
from conftest import GOLDEN
from training import emola_train

pytest.importorskip("torch")

import torch

from sdk.errors import TrainingError
from trainer.config import Conventions, ImageStatistics
from trainer.data import Encoding
from trainer.model import EmoLA
from trainer.recipe import Recipe
from trainer.records import read_records
from trainer.tokenization import load_tokenizer

RECORDS = read_records(GOLDEN / "data/FABAInstruct/train/train_anno.json")


@pytest.fixture
def rows_read(monkeypatch):
    """How many rows at the image's place each pass of a training reads."""
    counts = []
    encode = EmoLA.encode

    def counted(self, *inputs):
        counts.append((rows := encode(self, *inputs)).shape[1])
        return rows

    monkeypatch.setattr(EmoLA, "encode", counted)
    return counts


def test_training_reads_a_share_of_the_rows(tmp_path, rows_read):
    """`--keep-visual 0.25`: passes read from 4 to all 16 patches, never without the landmark row."""
    assert emola_train(tmp_path / "run", "--batch-size", "2", "--epochs", "4", "--keep-visual", "0.25") == 0
    assert set(rows_read) <= set(range(5, 18))
    assert min(rows_read) <= 8 < 14 <= max(rows_read), rows_read
    assert len(set(rows_read)) > 5


def test_training_reads_all_rows_by_default(tmp_path, rows_read):
    assert emola_train(tmp_path / "run", "--batch-size", "2") == 0
    assert set(rows_read) == {17}


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_is_above_0_and_at_most_1(share):
    with pytest.raises(TrainingError, match="--keep-visual"):
        Recipe(keep_visual=share)


def test_kept_rows_are_those_of_the_whole_face(emola):
    """Torch computes the same rows for the kept patches, in the order of the picture, and the landmark row last."""
    model = emola("trained")
    encoding = Encoding(model.config, Conventions(), ImageStatistics(), load_tokenizer(GOLDEN / "llava-base"))
    pixels, order = encoding.ranked_pixels(RECORDS[0])
    landmarks = encoding.landmarks(RECORDS[0])[None]
    assert sorted(order.tolist()) == list(range(len(order)))
    with torch.inference_mode():
        whole, kept = (model.encode(pixels[None], landmarks, patches)[0] for patches in (None, order[None, :4]))
    expected = torch.cat([whole[order[:4].sort().values], whole[-1:]])
    np.testing.assert_allclose(kept, expected, rtol=0, atol=1e-6)

"""Token ids are those of the authors' slow tokenizer, the leading blank included."""

import pytest
from conftest import golden_json

from sdk.errors import CheckpointError
from sdk.faba.prompts import TEMPLATES
from trainer.tokenization import conversation_ids, load_tokenizer, prompt_ids


@pytest.fixture(scope="module")
def tokenizer(golden):
    return load_tokenizer(golden / "llava-base")


def test_evaluation_prompts(tokenizer):
    for name in ("init", "trained"):
        for record in golden_json(f"golden_eval_{name}.json"):
            assert prompt_ids(tokenizer, record["prompt"]) == record["input_ids"]


def test_training_tokens_and_labels(tokenizer):
    """All 12 records; `<image>` stands at the end of some questions and comes out in front."""
    records = golden_json("data/FABAInstruct/train/train_anno.json")
    for record, expected in zip(records, golden_json("golden_train_tokens.json"), strict=True):
        question, answer = (turn["value"] for turn in record["conversations"])
        ids, labels = conversation_ids(tokenizer, TEMPLATES["vicuna_v1"], question, answer)
        assert ids == expected["input_ids"], record["id"]
        assert labels == expected["labels"], record["id"]


def test_the_blank_after_the_image_is_kept(tokenizer):
    ids = prompt_ids(tokenizer, "a<image>\nb")
    after = ids[ids.index(-200) + 1]
    assert tokenizer.id_to_piece(after) == "▁"


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is missing"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path)

"""`tokenizer.json` gives the ids of SentencePiece."""

import random

import pytest
from conftest import GOLDEN, golden_json
from tokenizers import Tokenizer

from export.graphs.tokenizer import check_tokenizer, convert_tokenizer
from sdk.errors import ExportError
from trainer.tokenization import load_tokenizer

PROCESSOR = load_tokenizer(GOLDEN / "llava-base")


def test_ids_equal_on_prompts_answers_and_noise():
    texts = [record["prediction"] for record in golden_json("golden_rege.json")["au_cases"]]
    draw = random.Random(0)
    letters = "abcdeAU 12.\n▁é😀  "
    texts += ["".join(draw.choices(letters, k=draw.randrange(1, 40))) for _ in range(500)]
    check_tokenizer(convert_tokenizer(PROCESSOR), PROCESSOR, texts)


def test_decoding_gives_the_text_back():
    tokenizer = Tokenizer.from_str(convert_tokenizer(PROCESSOR).to_str())
    for text in ("AU4 (Brow Lowerer): lowered.\n\nNaïve 😀", "  two blanks"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == PROCESSOR.decode(ids) == text
    assert tokenizer.decode([1, *ids, 2]) == text


def test_a_difference_is_named():
    tokenizer = convert_tokenizer(PROCESSOR)
    tokenizer.normalizer = None
    with pytest.raises(ExportError, match="the converted tokenizer reads 'a b' as"):
        check_tokenizer(tokenizer, PROCESSOR, ["a b"])

"""A small tokenizer in Llama's format for the texts of this task: common phrases are one piece, the rest is bytes."""

from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from sdk.errors import DataError
from sdk.faba.prompts import IMAGE, TEMPLATES
from trainer.corpus.records import Record


def train_tokenizer(records: Sequence[Record], template: str, size: int, path: Path) -> None:
    """Train byte pairs without normalisation and with byte fallback, as Llama's; pieces may contain blanks.

    A long piece such as "AU12 (Lip Corner Puller): The corners of the mouth are" takes the decoder one step.

    Args:
        records: questions and answers to learn from.
        template: conversation format; its system text becomes a few pieces.
        size: number of pieces, including bytes and special tokens.
        path: `tokenizer.model` to write.

    Raises:
        DataError: the texts are too few for so many pieces.
    """
    texts = [text for record in records for text in (record.question, record.answer)]
    around = TEMPLATES[template].prompt("").split(IMAGE)
    try:
        _train([*texts, *(around * max(1, len(texts) // 10))], size, path)
    except RuntimeError as error:
        if "Vocabulary size too high" not in str(error):
            raise
        raise DataError(
            f"{len(records)} records are too few for a tokenizer of {size} pieces; render more faces"
        ) from None
    path.with_suffix(".vocab").unlink()


def _train(texts: Sequence[str], size: int, path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(path.with_suffix("")),
        model_type="bpe",
        vocab_size=size,
        byte_fallback=True,
        split_by_whitespace=False,
        split_digits=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        max_sentencepiece_length=64,
        max_sentence_length=8192,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=2,
        minloglevel=2,
    )

"""Text to token ids, exactly as EmoLA was trained.

The texts before and after `<image>` are tokenised separately by SentencePiece. The second begins with the blank that
SentencePiece puts in front ("▁", 29871 in Vicuna). The tokenizers of transformers 5 silently drop that blank, so this
module uses SentencePiece itself.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

from sdk.errors import CheckpointError
from sdk.faba.prompts import END, IMAGE, Template

IMAGE_TOKEN = -200  # stands for the image and landmark rows
IGNORED = -100  # a label that is not trained


def load_tokenizer(base: "str | os.PathLike[str]") -> sentencepiece.SentencePieceProcessor:
    """Load the SentencePiece model of a base folder.

    Args:
        base: folder that holds `tokenizer.model`, or that file.

    Raises:
        CheckpointError: no such file, or no SentencePiece model in it.
    """
    path = Path(base)
    path = path / "tokenizer.model" if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: expected the SentencePiece model that Llama was released with")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{path} is not a SentencePiece model ({error}); copy it again") from None


def prompt_ids(tokenizer: sentencepiece.SentencePieceProcessor, prompt: str) -> list[int]:
    """Token ids of a prompt, with the beginning-of-sequence token in front and -200 for `<image>`."""
    ids = [tokenizer.bos_id()]
    for index, part in enumerate(prompt.split(IMAGE)):
        ids += [IMAGE_TOKEN] * (index > 0)
        ids += _encode(tokenizer, part)
    return ids


def conversation_ids(
    tokenizer: sentencepiece.SentencePieceProcessor, template: Template, question: str, answer: str
) -> tuple[list[int], list[int]]:
    """Input ids and labels of one training record; the answer and its end token are trained, the other labels are -100.

    Args:
        question: as in the record; `<image>` may occur anywhere in it and is moved to the front.
        answer: the description.
    """
    question = question.replace(IMAGE, "").strip()
    ids = prompt_ids(tokenizer, template.conversation(question, answer))
    masked = len(prompt_ids(tokenizer, template.prompt(question)))
    return ids, [IGNORED] * masked + ids[masked:]


def _encode(tokenizer: sentencepiece.SentencePieceProcessor, text: str) -> Iterator[int]:
    """SentencePiece ids of a text; `</s>` becomes the end token."""
    for index, part in enumerate(text.split(END)):
        if index:
            yield tokenizer.eos_id()
        if part:
            yield from tokenizer.encode(part)

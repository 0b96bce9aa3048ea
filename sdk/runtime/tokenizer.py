"""Read the `tokenizer.json` of a bundle: a byte-pair tokenizer of Llama's kind, as the export writes it."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from sdk.bundles.files import AGAIN
from sdk.errors import IntegrityError
from sdk.untrusted_json import read_json_object

_SIZE = 32 << 20  # bytes of the file; Vicuna's has 4 MB
_STEPS = 4096  # letters of the JSON of normaliser and decoder
_KINDS = {"Sequence", "Prepend", "Replace", "ByteFallback", "Fuse", "Strip"}


def read_tokenizer(path: Path, vocabulary: int) -> Tokenizer:
    """Read and check the file.

    Other kinds of tokenizers are refused: they have regular expressions that never end and padding that fills the
    memory, and the library ends in a panic for some.

    Args:
        vocabulary: number of token ids of the decoder.

    Raises:
        IntegrityError: the file is damaged, of another kind, or made for a larger vocabulary.
    """
    content = read_json_object(path, IntegrityError, limit=_SIZE, advice=AGAIN)
    try:
        _check(content, vocabulary)
        return Tokenizer.from_file(str(path))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library, which is written in Rust, is no Exception
        found = str(error) or type(error).__name__
        raise IntegrityError(f"{path}: not a tokenizer of Llama's kind ({found:.200}); {AGAIN}") from None


def _check(content: dict[str, Any], vocabulary: int) -> None:
    """Raise an error for a file that the export did not write."""
    model, steps = content["model"], [content.get(name) for name in ("normalizer", "decoder")]
    for name in ("truncation", "padding", "pre_tokenizer", "post_processor"):
        if content.get(name) is not None:
            raise ValueError(f"it has a {name}")
    if model["type"] != "BPE" or model.get("dropout"):
        raise ValueError(f"its model is {model['type']!r:.40}, with dropout {model.get('dropout')!r:.40}")
    if len(json.dumps(steps)) > _STEPS:
        raise ValueError("its normaliser or decoder is too long")
    for step in _flat(steps):
        if step["type"] not in _KINDS or "Regex" in (step.get("pattern") or ()):
            raise ValueError(f"it has a step {step['type']!r:.40}")
    ids = [*model["vocab"].values(), *(token["id"] for token in content.get("added_tokens") or ())]
    if not all(type(index) is int and 0 <= index < vocabulary for index in ids):
        raise ValueError(f"a token id is outside 0..{vocabulary - 1}")


def _flat(steps: list[Any]) -> list[Any]:
    """The steps of normaliser and decoder, those of sequences in their place."""
    found = []
    for step in filter(None, steps):
        inner = step.get("normalizers") or step.get("decoders") or []
        found += [step, *_flat(inner)]
    return found

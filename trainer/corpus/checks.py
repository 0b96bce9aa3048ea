"""Broken records of a data set, found before the training starts."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdk.errors import DataError, ImageError, ScoreError
from sdk.faba.prompts import TEMPLATES, Task
from sdk.faba.rege import annotated_action_units, emotion_index
from sdk.faba.vocabulary import ACTION_UNITS
from sdk.faces.images import load_image, read_size
from trainer.corpus.records import Record, parse_record, read_landmarks

if TYPE_CHECKING:
    import sentencepiece

_THREADS = 8


@dataclass(frozen=True)
class Problem:
    """One defect of one record."""

    record: str
    message: str

    def __str__(self) -> str:
        return f"{self.record}: {self.message}"


@dataclass(frozen=True)
class _Options:
    """Arguments of `check_rows`."""

    root: Path
    task: Task | None
    tokenizer: "sentencepiece.SentencePieceProcessor | None"
    max_tokens: int | None
    decode: bool


def check_rows(
    rows: Sequence[Any],
    path: Path,
    root: Path,
    *,
    task: Task | None = None,
    tokenizer: "sentencepiece.SentencePieceProcessor | None" = None,
    max_tokens: int | None = None,
    decode: bool = True,
) -> Iterator[Problem]:
    """Every problem of every record of a training or evaluation file, in the order of the file.

    Args:
        rows: content of the file, see `trainer.corpus.records.read_rows`.
        path: names the records in messages.
        root: folder that pictures and landmark files are relative to.
        task: of an evaluation file, which carries no questions.
        tokenizer, max_tokens: report conversations of more token ids; one id stands for the image.
        decode: decode the pictures instead of reading only their headers.

    Raises:
        DataError: an evaluation file without a task.
    """
    if task is None and any(_is_evaluation(row) for row in rows):
        raise DataError(f"{path} is an evaluation file: say which task it is of (--task)")
    names = [f"{path.name}[{index}]" for index in range(len(rows))]
    options = _Options(root, task, tokenizer, max_tokens, decode)
    seen: dict[str, str] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda row, name: list(_row_messages(row, name, options)), rows, names)
        for row, name, messages in zip(rows, names, found, strict=True):
            yield from (Problem(name, message) for message in messages)
            if isinstance(row, Mapping) and "id" in row:
                first = seen.setdefault(str(row["id"]), name)
                if first != name:
                    yield Problem(name, f"its id {row['id']!r} is also that of {first}")


def check_files(records: Sequence[Record], *, landmarks: bool = True) -> list[Problem]:
    """Records whose picture or landmark file is missing or of another kind; decodes no picture.

    Args:
        records: of one or several files.
        landmarks: whether landmark files are needed; a decoder that sees only the picture needs none.
    """

    def messages(record: Record) -> list[str]:
        found = [*_image_messages(record.image_path, decode=False)]
        return [*found, *_landmark_messages(record)] if landmarks else found

    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(messages, records)
        return [Problem(record.id, each) for record, part in zip(records, found, strict=True) for each in part]


def _is_evaluation(row: Any) -> bool:
    return isinstance(row, Mapping) and "gpt4" in row


def _row_messages(row: Any, name: str, options: _Options) -> Iterator[str]:
    record = None
    try:
        record = parse_record(row, name, options.root, options.task)
    except DataError as error:
        yield str(error).removeprefix(f"{name}: ")
    if not isinstance(row, Mapping):
        return
    if isinstance(row.get("image"), str):
        yield from _image_messages(options.root / row["image"], options.decode)
    if isinstance(row.get("landmark"), str):
        yield from _landmark_messages(Record(name, options.root, "", row["landmark"], "", ""))
    if _is_evaluation(row) and options.task:
        yield from _label_messages(row, options.task)
    if record and options.tokenizer and options.max_tokens:
        yield from _length_messages(record, options.tokenizer, options.max_tokens)


def _image_messages(path: Path, decode: bool) -> Iterator[str]:
    try:
        if decode:
            load_image(path)
        else:
            read_size(path)
    except ImageError as error:
        yield str(error)


def _landmark_messages(record: Record) -> Iterator[str]:
    try:
        read_landmarks(record)
    except DataError as error:
        yield str(error).removeprefix(f"{record.id}: ")


def _label_messages(row: Mapping[str, Any], task: Task) -> Iterator[str]:
    if not str(row["gpt4"]).strip():
        yield "gpt4, the reference text, is empty"
    try:
        if task == "emotion":
            emotion_index(row.get("label"))
        elif unknown := annotated_action_units(row.get("label")) - ACTION_UNITS.keys():
            yield f"label names {', '.join(f'AU{code}' for code in sorted(unknown))}, which FACS does not know"
    except ScoreError as error:
        yield str(error).removeprefix("annotation 0: ")


def _length_messages(
    record: Record, tokenizer: "sentencepiece.SentencePieceProcessor", max_tokens: int
) -> Iterator[str]:
    from trainer.tokenization import conversation_ids

    ids, _ = conversation_ids(tokenizer, TEMPLATES["vicuna_v1"], record.question, record.answer)
    if len(ids) > max_tokens:
        yield f"question and answer take {len(ids)} tokens, the context has room for {max_tokens}: the end is cut off"

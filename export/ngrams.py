"""Stage `answers`: count the answers of training records into `answers.ngrams`, from which the runtime drafts."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sentencepiece

from sdk.arrays import Doubles
from sdk.faba.prompts import TEMPLATES, Template
from sdk.runtime.ngrams import Ngrams
from trainer.checkpoint import Checkpoint
from trainer.corpus.records import Record, parse_record, read_rows
from trainer.tokenization import IGNORED, IMAGE_TOKEN, conversation_ids, load_tokenizer

NGRAMS = "answers.ngrams"
ORDER = 16  # tokens of context: they reach the end of the question in Vicuna's template, which differs by task
MIN_CASES = 3  # occurrences of a context; below it the counts say little
MAX_NODES = 50_000  # a few hundred kilobytes
MIN_CHANGE = 0.1  # of a share; a longer context with the same follower is kept if its share differs more

Longs = npt.NDArray[np.int64]


def write_ngrams(checkpoint: Checkpoint, records: Sequence[Record], folder: Path) -> dict[str, int]:
    """Count the answers of records and write the table into a folder."""
    template = TEMPLATES[checkpoint.conventions.template]
    table = count_ngrams(answers(load_tokenizer(checkpoint.base), template, records))
    table.save(folder / NGRAMS)
    return {"records": len(records), "contexts": len(table.parent)}


def read_training_files(paths: Iterable[Path]) -> list[Record]:
    """Read training records without their pictures.

    Raises:
        DataError: a file is not a training set.
    """
    return [
        parse_record(row, f"{path.name}[{index}]", path.parent)
        for path in paths
        for index, row in enumerate(read_rows(path))
    ]


def answers(
    tokenizer: sentencepiece.SentencePieceProcessor, template: Template, records: Iterable[Record]
) -> Iterator[tuple[list[int], int]]:
    """The ids of each record from after the image to the stop token, and the index at which the answer begins."""
    for record in records:
        ids, labels = conversation_ids(tokenizer, template, record.question, record.answer)
        begin = ids.index(IMAGE_TOKEN) + 1
        yield ids[begin:], labels[begin:].count(IGNORED)


def count_ngrams(sequences: Iterable[tuple[list[int], int]]) -> Ngrams:
    """Build the context tree of answers; without answers it is empty.

    The share of a follower is its count / (cases + 1), so that few cases never give certainty.

    Args:
        sequences: token ids, and the index of the first one to predict; those before it are only context.
    """
    tokens, depths = _flatten(sequences)  # depths: context of each token, 0 for those that are not predicted
    base = int(tokens.max(initial=0)) + 1
    places = np.flatnonzero(depths)
    nodes = np.zeros(len(places), np.int64)
    grown, size = [], 0
    for depth in range(1, ORDER + 1):
        reached = depths[places] >= depth
        places, nodes = places[reached], nodes[reached]
        edges, which, cases = np.unique(nodes * base + tokens[places - depth], return_inverse=True, return_counts=True)
        followers, hits = _most_frequent(which, tokens[places], len(edges), base)
        kept = cases >= MIN_CASES
        number = np.where(kept, size + np.cumsum(kept), 0)
        share = hits / (cases + 1)
        grown.append([column[kept] for column in (edges // base, edges % base, followers, share, cases)])
        size += int(kept.sum())
        undecided = (kept & (hits < cases))[which]  # if one token always follows, more context cannot change it
        places, nodes = places[undecided], number[which][undecided]
    return _prune(*(np.concatenate(column) for column in zip(*grown, strict=True)))


def _flatten(sequences: Iterable[tuple[list[int], int]]) -> tuple[Longs, Longs]:
    tokens: list[int] = []
    depths: list[int] = []
    for ids, begin in sequences:
        tokens += ids
        depths += [0] * begin + list(range(begin, len(ids)))
    return np.array(tokens, np.int64), np.array(depths, np.int64)


def _most_frequent(groups: Longs, values: Longs, count: int, base: int) -> tuple[Longs, Longs]:
    """The most frequent value of each group, the smallest of equally frequent ones, and its count."""
    pairs, times = np.unique(groups * base + values, return_counts=True)
    order = np.lexsort((-pairs, times))  # the last one that is written stays
    winner = np.zeros(count, np.int64)
    winner[pairs[order] // base] = order
    return pairs[winner] % base, times[winner]


def _prune(parent: Longs, token: Longs, follower: Longs, share: Doubles, cases: Longs) -> Ngrams:
    """Keep at most MAX_NODES contexts: those that predict otherwise than their parent, and the parents of those."""
    before = np.concatenate([[-1], follower])[parent]
    kept = (follower != before) | (np.abs(share - np.concatenate([[0], share])[parent]) > MIN_CHANGE)
    for node in range(len(parent) - 1, -1, -1):
        if kept[node] and parent[node]:
            kept[parent[node] - 1] = True
    order = np.flatnonzero(kept)
    order = np.sort(
        order[np.argsort(-cases[order], kind="stable")][:MAX_NODES]
    )  # no child has more cases than its parent
    number = np.zeros(len(parent) + 1, np.int32)
    number[order + 1] = np.arange(1, len(order) + 1)
    columns = (number[parent[order]], token[order].astype(np.int32), follower[order].astype(np.int32))
    return Ngrams(*columns, share[order].astype(np.float16))

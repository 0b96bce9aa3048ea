"""ROUGE-L of two texts, as the PyPI package rouge 1.0.1 computes it."""

from collections.abc import Sequence

from sdk.errors import ScoreError

_MAX_PAIRS = 100_000  # of sentences that are compared


def rouge_l(hypothesis: str, reference: str) -> float | None:
    """Summary-level ROUGE-L F in 0..1 as in the PyPI package rouge 1.0.1; None where that raises an error.

    Full stops separate sentences, blanks separate words, and case matters. The union of the longest common subsequences
    is a set of words, so a repeated word counts once.
    """
    guess, truth = _sentences(hypothesis), _sentences(reference)
    if not guess or not truth:
        return None
    if len(guess) * len(truth) > _MAX_PAIRS:
        raise ScoreError(
            f"a prediction of {len(guess)} different sentences and a reference of {len(truth)} are not compared; "
            f"expected at most {_MAX_PAIRS} pairs"
        )
    union: set[str] = set()
    for sentence in truth:
        for other in guess:
            union |= _common_subsequence(sentence, other)
    recall = len(union) / len({word for sentence in truth for word in sentence})
    precision = len(union) / len({word for sentence in guess for word in sentence})
    return 2 * precision * recall / (precision + recall + 1e-8)


def _sentences(text: str) -> list[tuple[str, ...]]:
    """Different sentences as words; blanks between full stops count as a sentence of one empty word, as in rouge."""
    return list(dict.fromkeys(tuple(part.split() or [""]) for part in text.split(".") if part))


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> set[str]:
    """The words of the longest common subsequence; ties prefer a shorter `a`, as in the rouge package.

    A row of the table is one integer, whose bit j is 0 where the length grows at b[j] (Hyyrö 2004).
    """
    places: dict[str, int] = {}
    for j, word in enumerate(b):
        places[word] = places.get(word, 0) | 1 << j
    row = full = (1 << len(b)) - 1
    rows = []
    for word in a:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & full
        rows.append(row)
    common, i, j = set(), len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            common.add(a[i - 1])
            i, j = i - 1, j - 1
        elif rows[i - 1] >> (j - 1) & 1:
            j -= 1
        else:
            i -= 1
    return common

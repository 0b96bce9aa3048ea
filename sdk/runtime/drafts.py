"""Drafts: which tokens are likely to come next, and how many of them it pays to read along in one forward.

A row more in a forward costs time, and saves a forward if its token turns out right. It pays while

    probability that the token is right  >  seconds of a row  x  tokens per second,

both measured as answers are decoded. The rule follows from renewal theory: of all ways to choose rewards over time, the
best takes what brings more than its time is worth at the best rate. A table that is wrong, or a machine on which rows
are dear, raises the price or lowers the probability until nothing is drafted.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from sdk.runtime.ngrams import ContextTree

MOST = 15  # tokens of a draft
_KEEP = 0.98  # of what was learnt, per forward: 50 forwards back counts for a third
_REPEAT = 0.7  # first guess: share of cases in which a run of three tokens goes on as it did before


class Source(Protocol):
    """Knows how a text may go on.

    Attributes:
        most: the largest probability that it gives.
    """

    most: float

    def after(self, tokens: Sequence[int]) -> tuple[int, float] | None:
        """The likeliest next token and its probability in 0..1, or None."""


class Repeats:
    """The text itself: the last three tokens were there before, and so may be what followed them."""

    most = _REPEAT

    def after(self, tokens: Sequence[int]) -> tuple[int, float] | None:
        text = array("i", tokens)
        data, end, width = text.tobytes(), text[-3:].tobytes(), text.itemsize
        at = data.rfind(end, 0, len(data) - width)
        while at > 0 and at % width:  # bytes of two neighbours
            at = data.rfind(end, 0, at + len(end) - 1)
        return None if at < 0 or len(text) < 4 else (text[at // width + 3], _REPEAT)


class Estimate:
    """A ratio of sums that fade.

    Args:
        first: its value before anything was seen.
        weight: of that value against one thing seen.
    """

    def __init__(self, first: float, weight: float) -> None:
        self._first, self._weight = first, weight
        self._sum = self._count = 0.0

    def add(self, amount: float, count: float) -> None:
        self._sum += amount
        self._count += count

    def fade(self) -> None:
        self._sum *= _KEEP
        self._count *= _KEEP

    @property
    def value(self) -> float:
        return (self._sum + self._first * self._weight) / (self._count + self._weight)


class Guess(NamedTuple):
    """A drafted token, its probability by its source and by experience, and the experience with that source."""

    token: int
    share: float
    chance: float
    trust: Estimate


class Drafter:
    """Proposes drafts for every answer of a pipeline and learns from what became of them.

    Threads may share it; what one overwrites of another's is an observation less.

    Args:
        table: of the bundle, or None: then the text of the answer is all there is to draw on.
    """

    def __init__(self, table: ContextTree | None) -> None:
        self._sources: list[tuple[Source, Estimate]] = [(Repeats(), Estimate(1.0, 1.0))]
        if table:
            self._sources.insert(0, (table, Estimate(1.0, 1.0)))
        self._step: float | None = None  # seconds of a forward of one row
        self._row = Estimate(0.3, 2.0)  # time of a further row, in steps
        self._speed = Estimate(1.0, 4.0)  # tokens per time of a step

    def propose(self, tokens: Sequence[int], limit: int) -> list[Guess]:
        """A draft of what follows `tokens`: at most `limit` tokens, none where none pays."""
        draft: list[Guess] = []
        if self._step is None:
            return draft
        text, right = list(tokens), 1.0
        price = self._row.value * self._speed.value
        trusted = [(source, trust, trust.value) for source, trust in self._sources]
        while len(draft) < min(limit, MOST) and (guess := _first_worth(text, trusted, price / right)):
            right *= guess.chance
            text.append(guess.token)
            draft.append(guess)
        return draft

    def learn(self, draft: Sequence[Guess], right: int, seconds: float) -> None:
        """Take in that of a draft the first `right` tokens were right, in a forward of so many seconds."""
        step = self._step or seconds
        if draft:
            self._step = step = min(step, seconds)  # one row is not slower than many
        else:
            self._step = step + 0.1 * (min(seconds, 2 * step) - step)  # an interruption is no slow step
        for estimate in (self._row, self._speed, *(trust for _, trust in self._sources)):
            estimate.fade()
        for index, guess in enumerate(draft[: right + 1]):
            guess.trust.add(float(index < right), guess.share)
        time = min(seconds / step, 2.0 + len(draft))
        self._speed.add(1 + right, time)
        self._row.add(time - 1 if draft else 0.0, len(draft))


def _first_worth(text: Sequence[int], trusted: Iterable[tuple[Source, Estimate, float]], price: float) -> Guess | None:
    """The guess of the first source whose probability, corrected by experience, is above the price."""
    for source, trust, factor in trusted:
        if source.most * factor > price and (found := source.after(text)):
            chance = min(found[1] * factor, 1.0)
            if chance > price:
                return Guess(*found, chance, trust)
    return None

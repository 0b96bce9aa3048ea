"""Drafts: propose the tokens that are likely to come next, as long as verifying them in the same forward pays.

Each drafted token adds a row to a forward. The row costs time; it saves a forward if the token is accepted. A token is
drafted while

    probability that it is accepted  >  seconds per row  x  tokens per second,

both measured while answers are decoded. The rule follows from renewal-reward theory: the long-run rate is highest if
every option is taken that yields more than its time is worth at that rate. If the table is wrong, or rows are expensive
on a machine, the probability falls or the cost rises until nothing is drafted. By the same rule, a token of another
answer is read in the same step: that token is certain, and its row costs time, too.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from operator import mul
from typing import NamedTuple, Protocol

from sdk.runtime.ngrams import ContextTree

MAX_DRAFT = 15  # tokens
DECAY = 0.98  # of the statistics, per forward: an observation 50 forwards back weighs about a third
LOOKUP_LENGTH = 3  # tokens that must occur earlier in the text
LOOKUP_PROBABILITY = 0.7  # before anything is measured: how often the text continues as it did before


class DraftSource(Protocol):
    """Predicts how a text continues.

    Attributes:
        max_probability: the largest probability that it returns.
    """

    max_probability: float

    def predict(self, tokens: Sequence[int]) -> tuple[int, float] | None:
        """The most likely next token and its probability in 0..1, or None."""


class PromptLookup:
    """Prompt lookup decoding: if the last three tokens occur earlier in the text, the token after them is predicted."""

    max_probability = LOOKUP_PROBABILITY

    def predict(self, tokens: Sequence[int]) -> tuple[int, float] | None:
        text = array("i", tokens)
        data, end, width = text.tobytes(), text[-LOOKUP_LENGTH:].tobytes(), text.itemsize
        at = data.rfind(end, 0, len(data) - width)
        while at > 0 and at % width:  # the bytes match across the border of two tokens
            at = data.rfind(end, 0, at + len(end) - 1)
        if at < 0 or len(text) <= LOOKUP_LENGTH:
            return None
        return text[at // width + LOOKUP_LENGTH], LOOKUP_PROBABILITY


class DecayingRatio:
    """A ratio of two sums whose older terms lose weight.

    Args:
        prior: the ratio before anything is observed.
        weight: weight of the prior, relative to one observation.
    """

    def __init__(self, prior: float, weight: float) -> None:
        self._prior, self._weight = prior, weight
        self._sum = self._count = 0.0

    def add(self, amount: float, count: float) -> None:
        self._sum += amount
        self._count += count

    def decay(self) -> None:
        self._sum *= DECAY
        self._count *= DECAY

    @property
    def value(self) -> float:
        return (self._sum + self._prior * self._weight) / (self._count + self._weight)


class DraftToken(NamedTuple):
    """A drafted token.

    Attributes:
        token: its id.
        predicted: probability according to its source.
        probability: the same, corrected by the acceptance of that source.
        acceptance: accepted tokens of the source, relative to the number that it predicted.
    """

    token: int
    predicted: float
    probability: float
    acceptance: DecayingRatio


class Drafter:
    """Proposes drafts for every answer of a pipeline and learns from the tokens that were accepted.

    Threads may share it: if two write at the same time, one observation is lost.

    Args:
        table: context tree of the bundle; None uses prompt lookup alone.
    """

    def __init__(self, table: ContextTree | None) -> None:
        self._sources: list[tuple[DraftSource, DecayingRatio]] = [(PromptLookup(), DecayingRatio(1.0, 1.0))]
        if table:
            self._sources.insert(0, (table, DecayingRatio(1.0, 1.0)))
        self._step_seconds: float | None = None  # of a forward with one row
        self._row_cost = DecayingRatio(0.3, 2.0)  # of each further row, in steps
        self._pair_cost = DecayingRatio(0.3, 2.0)  # of the row of another answer, in steps
        self._throughput = DecayingRatio(1.0, 4.0)  # tokens per time of a step

    def propose(self, tokens: Sequence[int], limit: int) -> list[DraftToken]:
        """Draft what follows `tokens`: at most `limit` tokens, none if none is worth its cost."""
        draft: list[DraftToken] = []
        if self._step_seconds is None:
            return draft
        text, accepted = list(tokens), 1.0
        cost = self._row_cost.value * self._throughput.value
        sources = [(source, acceptance, acceptance.value) for source, acceptance in self._sources]
        while len(draft) < min(limit, MAX_DRAFT) and (found := _next_token(text, sources, cost / accepted)):
            accepted *= found.probability
            text.append(found.token)
            draft.append(found)
        return draft

    def gain(self, draft: Sequence[DraftToken]) -> float:
        """Expected number of accepted tokens, less the tokens that its rows cost."""
        accepted: Iterator[float] = accumulate((token.probability for token in draft), mul)
        return sum(accepted) - self._row_cost.value * self._throughput.value * len(draft)

    def pair_gain(self) -> float:
        """The same for a token of another answer, in one step with one of this; 0 before a step was measured."""
        return 1 - self._pair_cost.value * self._throughput.value if self._step_seconds else 0.0

    def learn_pair(self, seconds: float, rows_again: int) -> None:
        """Update the statistics after a step of two answers.

        Args:
            seconds: time of the step.
            rows_again: steps of one row that near ties after it have cost.
        """
        if self._step_seconds:
            self._step_seconds = min(self._step_seconds, seconds)
            self._decay()
            time = min(seconds / self._step_seconds, 3.0) + rows_again
            self._throughput.add(2, time)
            self._pair_cost.add(time - 1, 1)

    def learn(self, draft: Sequence[DraftToken], accepted: int, seconds: float) -> None:
        """Update the statistics after a forward.

        Args:
            draft: the tokens that were verified.
            accepted: how many of them, from the first on, were accepted.
            seconds: time of the forward.
        """
        step = self._step_seconds or seconds
        if draft:
            self._step_seconds = step = min(step, seconds)  # one row is not slower than several
        else:
            self._step_seconds = step + 0.1 * (min(seconds, 2 * step) - step)  # an interruption is not a slow step
        self._decay()
        for index, token in enumerate(draft[: accepted + 1]):
            token.acceptance.add(float(index < accepted), token.predicted)
        time = min(seconds / step, 2.0 + len(draft))
        self._throughput.add(1 + accepted, time)
        self._row_cost.add(time - 1 if draft else 0.0, len(draft))

    def _decay(self) -> None:
        costs = self._row_cost, self._pair_cost, self._throughput
        for ratio in (*costs, *(acceptance for _, acceptance in self._sources)):
            ratio.decay()


def _next_token(
    text: Sequence[int], sources: Iterable[tuple[DraftSource, DecayingRatio, float]], cost: float
) -> DraftToken | None:
    """The prediction of the first source whose probability, corrected by its acceptance, exceeds the cost."""
    for source, acceptance, factor in sources:
        if source.max_probability * factor > cost and (found := source.predict(text)):
            probability = min(found[1] * factor, 1.0)
            if probability > cost:
                return DraftToken(*found, probability, acceptance)
    return None

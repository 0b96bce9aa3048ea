"""Continuous batching for threads: answers that are drawn at the same time are decoded in common steps.

A decode step reads all weights of the model, regardless of the number of sequences. An answer joins at the step after
its first token and leaves at its end. No thread is started for this: the thread that needs a token first runs the next
step for all, and the others wait for it. An answer that is alone is decoded with drafts instead.

A step of several sequences is rounded as the verification of a draft is, so near ties are decided in the same way
(`sdk.runtime.speculate`): every answer has the tokens that it has alone.
"""

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from itertools import islice
from threading import Condition

from sdk.runtime.backends.interface import Decoder
from sdk.runtime.generate import Generation
from sdk.runtime.speculate import DraftedGeneration, step_together


class SharedSteps:
    """Decodes the greedy answers of several threads together. Call `close` after the last one.

    Args:
        decoder: one whose `drafts` is True.
        capacity: positions of the caches of all answers.
        sequences: number of answers that are drawn at the same time at most; each has a second KV cache while it runs.
    """

    def __init__(self, decoder: Decoder, capacity: int, sequences: int) -> None:
        self._decoder, self._pool = decoder, decoder.new_pool(capacity, sequences)
        self._running: list[DraftedGeneration] = []  # the answer at index i has sequence i of the pool
        self._arrived: list[DraftedGeneration] = []
        self._left: set[DraftedGeneration] = set()
        self._failures: dict[DraftedGeneration, Exception] = {}
        self._turn, self._stepping = Condition(), False

    def tokens(self, generation: Generation) -> Iterator[int]:
        """Draw the tokens of an answer whose question was not read yet. A sampled answer shares no steps.

        Raises:
            BackendError: the decoder failed.
            CancelledError: the answer was cancelled.
        """
        if not isinstance(generation, DraftedGeneration):
            yield from generation
            return
        yield from islice(generation, 1)
        with self._turn:
            self._arrived.append(generation)
        try:
            while self._has_token(generation):
                yield generation.ready.popleft()
        finally:
            with self._turn:
                self._left.add(generation)

    def close(self) -> None:
        """Free the caches."""
        self._pool.close()

    def _has_token(self, generation: DraftedGeneration) -> bool:
        """Wait until a token of an answer is decoded; False after the last one."""
        with self._turn:
            while not generation.ready and generation.pending and generation not in self._failures:
                if self._stepping:
                    self._turn.wait()
                    continue
                arrived, left, self._arrived, self._left = self._arrived, self._left, [], set()
                with self._unlocked():
                    self._arrange(arrived, left)
                    self._step()
            if error := self._failures.get(generation):
                raise error
            return bool(generation.ready)

    @contextmanager
    def _unlocked(self) -> Iterator[None]:
        """Let other threads arrive, leave and take their tokens while this one computes."""
        self._stepping = True
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()
            self._stepping = False
            self._turn.notify_all()

    def _arrange(self, arrived: Sequence[DraftedGeneration], left: Set[DraftedGeneration]) -> None:
        """Let answers out that are over, then let the new ones in; the used sequences stay consecutive."""
        for row in reversed(range(len(self._running))):
            generation = self._running[row]
            if not generation.pending or generation in left or generation in self._failures:
                last = self._running.pop()
                if last is not generation:
                    self._place(last, row)
        for generation in left:
            self._failures.pop(generation, None)
        for generation in arrived:
            if generation.pending and generation not in left:
                self._place(generation, len(self._running))

    def _place(self, generation: DraftedGeneration, row: int) -> None:
        """Give an answer a sequence of the pool, with a copy of what it has read."""
        with self._failing(generation):
            self._pool.copy(generation.cache, row)
            generation.cache = self._pool.caches[row]
            self._running[row : row + 1] = [generation]

    def _step(self) -> None:
        """Decode at least one more token of every answer."""
        with self._failing(*self._running):
            if len(self._running) == 1:
                self._running[0].decode_draft()
                return
            logits = step_together(self._decoder, self._pool, self._running)
            for generation, row in zip(self._running, logits, strict=True):
                with self._failing(generation):
                    generation.accept_shared(row)

    @contextmanager
    def _failing(self, *generations: DraftedGeneration) -> Iterator[None]:
        """Keep an error for the threads that draw these answers."""
        try:
            yield
        except Exception as error:
            self._failures.update(dict.fromkeys(generations, error))

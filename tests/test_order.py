"""The order of training records: random steps, and passes of similar length within a step."""

import numpy as np

from trainer.corpus.tensors import RecordOrder

LENGTHS = np.random.default_rng(0).integers(5, 300, 1000).tolist()


def order(epoch: int, lengths=LENGTHS, passes: int = 4) -> list[int]:
    records = RecordOrder(len(LENGTHS), 16, passes, seed=3, lengths=lengths)
    records.set_epoch(epoch)
    return list(records)


def test_every_record_once_and_the_same_again():
    """An epoch is a permutation that depends only on seed and epoch."""
    assert sorted(order(0)) == list(range(1000))
    assert order(0) == order(0) != order(1)


def test_steps_are_chance():
    """Grouping does not change the records of a step: they are those of the plain shuffle."""
    plain, dealt = order(0, lengths=None), order(0)
    for start in range(0, 1000, 64):
        assert set(plain[start : start + 64]) == set(dealt[start : start + 64])


def test_passes_of_a_step_have_like_lengths():
    """Tokens per forward pass within a step spread by less than 2 %; a plain shuffle gives about 12 %."""

    def spread(records: list[int]) -> float:
        totals = np.array(LENGTHS)[records[:960]].reshape(15, 4, 16).sum(axis=2)
        return float((totals.std(axis=1) / totals.mean(axis=1)).mean())

    assert spread(order(0)) < 0.02 < 0.08 < spread(order(0, lengths=None))

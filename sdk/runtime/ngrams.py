"""`answers.ngrams`: which token followed which in the answers that a model was trained on.

A context tree (Ron, Singer and Tishby, "The power of amnesia", 1996): each node is a run of tokens, read backwards from
the last one, and knows the token that most often came next and the share of cases in which it did. A longer context is
in the tree only where it says something else than the shorter one: a few thousand nodes hold tens of thousands of
answers.

The file is an `.npz` of four arrays with one entry per node but the root, parents first; nothing in it is pickled:
`parent` int32 (0 is the root, node i is entry i - 1), `token` int32, `follower` int32, `share` float16 in 0..1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sdk.arrays import Ints
from sdk.bundles.damage import reading_arrays


@dataclass(frozen=True)
class Ngrams:
    """Arrays of the file, each (nodes,); see the module."""

    parent: Ints
    token: Ints
    follower: Ints
    share: npt.NDArray[np.float16]

    def save(self, path: Path) -> None:
        with path.open("wb") as file:  # a name would get the ending .npz
            np.savez_compressed(file, **vars(self))

    @classmethod
    def load(cls, path: Path, vocabulary: int) -> "Ngrams":
        """Read and check the file.

        Args:
            vocabulary: token ids are below it.

        Raises:
            IntegrityError: it is damaged, or of another tokenizer.
        """
        with reading_arrays(path, "a table of n-grams") as file:
            table = cls(**file)
            table._check(vocabulary)
        return table

    def _check(self, vocabulary: int) -> None:
        count = len(self.parent)
        if any(array.shape != (count,) for array in vars(self).values()):
            raise ValueError("its arrays differ in length")
        if not (self.parent >= 0).all() or not (self.parent <= np.arange(count)).all():
            raise ValueError("a parent comes after its child")
        for ids in (self.token, self.follower):
            if not ((ids >= 0) & (ids < vocabulary)).all():
                raise ValueError(f"a token id is outside 0..{vocabulary - 1}")
        if not ((self.share >= 0) & (self.share <= 1)).all():
            raise ValueError("a share is outside 0..1")


class ContextTree:
    """`Ngrams` in the form in which one look-up takes a microsecond."""

    most = 1.0

    def __init__(self, table: Ngrams) -> None:
        edges = zip(table.parent.tolist(), table.token.tolist(), strict=True)
        self._children = {edge: node for node, edge in enumerate(edges, 1)}
        self._followers = list(zip(table.follower.tolist(), table.share.tolist(), strict=True))

    def after(self, tokens: Sequence[int]) -> tuple[int, float] | None:
        """What most often follows the longest known end of `tokens`, and how often; None when no end is known."""
        node = 0
        for token in reversed(tokens):
            child = self._children.get((node, token))
            if child is None:
                break
            node = child
        return self._followers[node - 1] if node else None

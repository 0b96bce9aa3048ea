"""`answers.ngrams`: which token follows which context in the answers that a model was trained on.

A context tree (Ron, Singer and Tishby, "The power of amnesia", 1996). Each node is a context, read backwards from its
last token. It stores the token that follows most often and the share of cases in which it does. A longer context is
stored only if its prediction differs from that of the shorter one, so a few thousand nodes describe tens of thousands
of answers.

The file is an `.npz` of four arrays without pickled objects. They have one entry for each node except the root, parents
first: `parent` int32 (0 is the root, node i is entry i - 1), `token` int32, `follower` int32, `share` float16 in 0..1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sdk.arrays import Ints
from sdk.bundles.damage import read_arrays, reading

_MAX_SIZE = 16 << 20  # bytes: a million nodes; the export writes 50,000 at most


@dataclass(frozen=True)
class Ngrams:
    """The arrays of the file, each (nodes,); the module describes them."""

    parent: Ints
    token: Ints
    follower: Ints
    share: npt.NDArray[np.float16]

    def save(self, path: Path) -> None:
        with path.open("wb") as file:  # given a path, numpy appends .npz
            np.savez_compressed(file, **vars(self))

    @classmethod
    def load(cls, path: Path, vocabulary: int) -> "Ngrams":
        """Read and check the file.

        Args:
            vocabulary: number of token ids.

        Raises:
            IntegrityError: the file is damaged, or belongs to another tokenizer.
        """
        with reading(path, "a table of n-grams"):
            table = cls(**read_arrays(path, _MAX_SIZE))
            table._check(vocabulary)
        return table

    def _check(self, vocabulary: int) -> None:
        count = len(self.parent)
        if any(array.shape != (count,) for array in vars(self).values()):
            raise ValueError("its arrays differ in length")
        if [array.dtype.kind for array in vars(self).values()] != ["i", "i", "i", "f"]:
            raise ValueError("its arrays have other types of numbers")
        if not (self.parent >= 0).all() or not (self.parent <= np.arange(count)).all():
            raise ValueError("a parent comes after its child")
        for ids in (self.token, self.follower):
            if not ((ids >= 0) & (ids < vocabulary)).all():
                raise ValueError(f"a token id is outside 0..{vocabulary - 1}")
        if not ((self.share >= 0) & (self.share <= 1)).all():
            raise ValueError("a share is outside 0..1")


class ContextTree:
    """`Ngrams` as dictionaries, for look-ups that take a microsecond."""

    max_probability = 1.0

    def __init__(self, table: Ngrams) -> None:
        edges = zip(table.parent.tolist(), table.token.tolist(), strict=True)
        self._children = {edge: node for node, edge in enumerate(edges, 1)}
        self._followers = list(zip(table.follower.tolist(), table.share.tolist(), strict=True))

    def predict(self, tokens: Sequence[int]) -> tuple[int, float] | None:
        """The token that most often follows the longest known context at the end of `tokens`, and how often it does.

        None if no context is known.
        """
        node = 0
        for token in reversed(tokens):
            child = self._children.get((node, token))
            if child is None:
                break
            node = child
        return self._followers[node - 1] if node else None

"""The ranges of numeric options: one check and one wording for Python and for the command line."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from numbers import Integral, Real
from typing import Any

from sdk.errors import SdkError, TaskError, UsageError


@dataclass(frozen=True)
class Range:
    """The numbers that an option takes. NaN, infinity and bools are in no range.

    Attributes:
        least, most: the bounds.
        above, below: bounds that are not themselves in the range.
        whole: only whole numbers.
    """

    least: float = -inf
    most: float = inf
    above: float = -inf
    below: float = inf
    whole: bool = False

    def check(self, name: str, value: Any, error: type[SdkError] = TaskError, *, optional: bool = False) -> None:
        """Check the value of an option.

        Args:
            name: of the option, for the message.
            optional: None is allowed, too.

        Raises:
            SdkError: the value is not in the range; the type is `error`.
        """
        if value is None and optional:
            return
        kind: Any = Integral if self.whole else Real
        if isinstance(value, bool) or not isinstance(value, kind):
            raise error(f"{name} must be {'a whole number' if self.whole else 'a number'}, not {value!r:.60}")
        if not (self.least <= value <= self.most and self.above < value < self.below):
            raise error(f"{name} must be {self._bounds(value)}, not {value}")

    def _bounds(self, value: object) -> str:
        bounds = {"at least": self.least, "greater than": self.above, "at most": self.most, "less than": self.below}
        finite = [f"{words} {bound}" for words, bound in bounds.items() if abs(bound) != inf]
        return " and ".join(finite) if finite and value not in (inf, -inf) else "a finite number"


COUNT = Range(least=1, whole=True)
THREADS = Range(least=1, most=1024, whole=True)  # all are started, and no processor has more
FROM_0 = Range(least=0)
POSITIVE = Range(above=0)
SHARE = Range(least=0, most=1)
FINITE = Range()


def check_options(options: Mapping[str, object], ranges: Mapping[str, Range]) -> None:
    """Check the numbers of a command line.

    Args:
        options: values by the names of their options; None where an option was left out.
        ranges: of the options to check.

    Raises:
        UsageError: a value is not in its range; the message names the option as users write it.
    """
    for name, allowed in ranges.items():
        allowed.check(f"--{name.replace('_', '-')}", options[name], UsageError, optional=True)

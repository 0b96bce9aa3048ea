"""Values of command-line options: types for `argparse`, which reports their errors as wrong usage."""

import argparse
import math
import shlex


def at_least_one(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text) if text.removeprefix("-").isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return number


def positive(text: str) -> float:
    """A number above 0."""
    number = _number(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return number


def not_negative(text: str) -> float:
    """A number of at least 0."""
    number = _number(text)
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, found {text!r}")
    return number


def words(text: str) -> tuple[str, ...]:
    """Words as in a shell."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected words as in a shell, found {text!r} ({error})") from None


def add_number(parser: argparse.ArgumentParser, name: str, default: float, text: str) -> None:
    """Add the option of a number, of the type of its default, which its help names."""
    flag = f"--{name.replace('_', '-')}"
    parser.add_argument(flag, type=type(default), default=default, metavar="N", help=f"{text} (default %(default)s)")


def _number(text: str) -> float:
    """A finite number; NaN for every other text."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan

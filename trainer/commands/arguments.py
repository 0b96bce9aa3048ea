"""Values of command-line options."""

import argparse


def at_least_one(text: str) -> int:
    """A whole number of at least 1; an `argparse` type.

    Raises:
        ArgumentTypeError: it is another text.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return number

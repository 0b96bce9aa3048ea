"""Which rows of a face the decoder sees (Table 8 of the paper), and in which order."""

from typing import Literal

Tokens = Literal["both", "visual", "prior"]
PriorPosition = Literal["after", "before"]

"""Which rows of a face the decoder sees (Table 8 of the paper)."""

from typing import Literal

Tokens = Literal["both", "visual", "prior"]

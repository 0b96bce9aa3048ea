"""Phrases that name a label. A label is scored by how probable the decoder finds them, without writing an answer."""

from pydantic import Field

from sdk.bundles.files import FrozenModel
from sdk.faba.vocabulary import ACTION_UNITS, Emotion


class UnitList(FrozenModel):
    """A way of listing action units in the order of their numbers.

    Attributes:
        opening: text before the number of the first unit; "AU" is a list of codes without reasons.
        ends: what may follow the last unit instead of another one; "" is the end mark.
    """

    opening: str
    ends: tuple[str, ...]

    @property
    def is_plain(self) -> bool:
        """Whether it lists codes alone: "AU4, AU9"."""
        return self.opening == "AU"

    def first(self, code: int) -> str:
        """The list up to its first number."""
        return f"{self.opening}{code}"

    def rest(self, code: int) -> str:
        """What follows a number at once."""
        return ", AU" if self.is_plain else f" ({ACTION_UNITS[code]}"


class LabelPhrases(FrozenModel):
    """The beginnings of answers in which a label is named, as the training answers have them.

    Attributes:
        emotions: beginning that ends with the word for an emotion -> emotion.
        lists: ways of listing action units.
        signs: what each unit looks like, by code: an item of a list says something before the next item comes.
        no_units: answers for a face without an active unit.
    """

    emotions: dict[str, Emotion] = Field(min_length=1)
    lists: tuple[UnitList, ...] = Field(min_length=1)
    signs: dict[int, str]
    no_units: tuple[str, ...]

    def after(self, style: UnitList, code: int) -> str:
        """A list that has come to `code`, up to where the next number or the end follows."""
        if style.is_plain:
            return f"AU{code}"
        return f"{style.opening}{code} ({ACTION_UNITS[code]}): {self.signs[code]}."

    def following(self, style: UnitList, code: int, following: int) -> str:
        """A list that has come to `code` and goes on with the number of the next unit."""
        return self.after(style, code) + (f", AU{following}" if style.is_plain else f"\n2. AU{following}")

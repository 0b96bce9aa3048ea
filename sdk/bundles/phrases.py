"""Phrases that name a label. The score of a label is the probability of its phrases, without writing an answer."""

from pathlib import Path

from pydantic import Field, field_validator

from sdk.bundles.files import FrozenModel
from sdk.faba.vocabulary import ACTION_UNITS, FABA_UNITS, Emotion


class UnitList(FrozenModel):
    """A format for lists of action units in the order of their numbers.

    Attributes:
        opening: text before the number of the first unit; "AU" means a list of codes without reasons.
        ends: texts that may follow the last unit; "" is the end mark.
    """

    opening: str
    ends: tuple[str, ...] = Field(max_length=100)

    @property
    def is_plain(self) -> bool:
        """Whether the list contains codes only: "AU4, AU9"."""
        return self.opening == "AU"

    def first(self, code: int) -> str:
        """The list up to its first number."""
        return f"{self.opening}{code}"

    def rest(self, code: int) -> str:
        """The text directly after a number."""
        return ", AU" if self.is_plain else f" ({ACTION_UNITS[code]}"


class LabelPhrases(FrozenModel):
    """Beginnings of answers that name a label, in the wording of the training answers.

    Attributes:
        emotions: beginning that ends with the word for an emotion -> emotion.
        lists: formats for lists of action units.
        signs: description of each unit by code; it stands between an item of a list and the next.
        no_units: answers for a face without an active unit.
    """

    emotions: dict[str, Emotion] = Field(min_length=1, max_length=10_000)
    lists: tuple[UnitList, ...] = Field(min_length=1, max_length=100)
    signs: dict[int, str]
    no_units: tuple[str, ...] = Field(max_length=1000)

    @field_validator("signs")
    @classmethod
    def _complete(cls, signs: dict[int, str]) -> dict[int, str]:
        if missing := [code for code in FABA_UNITS if code not in signs]:
            raise ValueError(f"no sign of AU{missing[0]}; expected one for each of {len(FABA_UNITS)} action units")
        return signs

    def after(self, style: UnitList, code: int) -> str:
        """A list up to and including the item `code`, before the next number or the end."""
        if style.is_plain:
            return f"AU{code}"
        return f"{style.opening}{code} ({ACTION_UNITS[code]}): {self.signs[code]}."

    def following(self, style: UnitList, code: int, following: int) -> str:
        """A list up to the item `code` and the number of the following unit."""
        return self.after(style, code) + (f", AU{following}" if style.is_plain else f"\n2. AU{following}")


def read_default_phrases() -> LabelPhrases:
    """The phrases of bundles that were made before manifests had them."""
    path = Path(__file__).parents[1] / "assets" / "label-phrases.json"
    return LabelPhrases.model_validate_json(path.read_text(encoding="utf-8"))

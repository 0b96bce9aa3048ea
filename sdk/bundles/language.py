"""The language of a model's answers, if its training answers were made from a closed set of sentences.

The runtime then decodes only what this language contains, and lets a description say only what the list of action
units bears out: see `sdk.runtime.language`.
"""

from collections.abc import Sized
from typing import Annotated, TypeAlias, TypeVar

from pydantic import Field, field_validator

from sdk.bundles.files import FrozenModel
from sdk.faba.vocabulary import FABA_UNITS, Emotion

Texts: TypeAlias = Annotated[tuple[str, ...], Field(max_length=100)]
Text = TypeVar("Text", bound=Sized)


class Claim(FrozenModel):
    """A text that says something about action units.

    Attributes:
        shows: it is true of a face that has at least one unit of each of these groups.
        denies: it says that these units are absent.
    """

    text: str = Field(min_length=1, max_length=1000)
    shows: tuple[tuple[int, ...], ...] = Field(default=(), max_length=20)
    denies: tuple[int, ...] = Field(default=(), max_length=20)


class Opening(FrozenModel):
    """A first sentence.

    Attributes:
        emotion: that it names.
        closings: last sentences of a description that begins with it; "" leaves it out.
    """

    emotion: Emotion
    closings: Texts = Field(min_length=1)


class DescriptionLanguage(FrozenModel):
    """Descriptions of an emotion: an opening, the visible signs, a reason, and perhaps a closing sentence.

    Attributes:
        openings: the first sentences.
        signs: how the description mentions each unit, in a list in the order of the numbers.
        most_signs: number of signs that a description mentions at most.
        rest: sentence about a neutral face without an active unit.
        reasons: sentences of which a description has one, by emotion.
        never_denied: units whose absence the model cannot tell, whatever its scores; no description denies them, and no
            short answer denies them alone.
    """

    openings: dict[str, Opening] = Field(min_length=1, max_length=1000)
    signs: dict[int, str]
    most_signs: int = Field(gt=0, le=20)
    rest: str
    reasons: dict[Emotion, Annotated[tuple[Claim, ...], Field(max_length=100)]]
    never_denied: tuple[int, ...] = Field(default=(), max_length=20)

    @field_validator("signs")
    @classmethod
    def _complete(cls, signs: dict[int, str]) -> dict[int, str]:
        return check_units(signs)


class ListLanguage(FrozenModel):
    """Numbered lists of action units in the order of their codes: "1. AU4 (Brow Lowerer): appearance, meaning."

    Attributes:
        opening: text before the first number.
        appearances: what each unit looks like, in several degrees.
        uneven: text that may follow an appearance.
        meanings: what each unit may suggest.
        closings: texts of which one may follow the last item.
        no_units: answers for a face without an active unit.
    """

    opening: str = Field(min_length=1)
    appearances: dict[int, Texts]
    uneven: str = Field(min_length=1)
    meanings: dict[int, Texts]
    closings: Texts
    no_units: Texts

    @field_validator("appearances", "meanings")
    @classmethod
    def _complete(cls, texts: dict[int, Text]) -> dict[int, Text]:
        return check_units(texts)


class Topic(FrozenModel):
    """Something that can be asked about a face, such as whether it smiles.

    Attributes:
        questions: the wordings in which the model was trained to understand it.
        answers: of which the model gives one that the list of action units bears out.
    """

    questions: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]
    answers: Annotated[tuple[Claim, ...], Field(min_length=1, max_length=100)]


class AnswerLanguage(FrozenModel):
    """Every answer that the training set can contain, by task, and by topic for short answers."""

    emotion: DescriptionLanguage
    action_units: ListLanguage
    topics: dict[str, Topic] = Field(default_factory=dict, max_length=100)


def check_units(texts: dict[int, Text]) -> dict[int, Text]:
    """Check that there is a text for each of FABA-Instruct's units, and for no other."""
    if set(texts) != set(FABA_UNITS) or not all(texts.values()):
        raise ValueError(f"expected a text for each of {len(FABA_UNITS)} action units")
    return texts

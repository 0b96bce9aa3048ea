"""Short questions about a rendered face, with answers that the scene bears out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sdk.faba.prompts import Task
from trainer.corpus.templates import QUESTION_TEMPLATES
from trainer.synthetic.accessories import Accessories
from trainer.synthetic.describe import is_true, strength_of
from trainer.synthetic.expression import Expression
from trainer.synthetic.topics import HIDDEN_EYES, REFUSED, TOPICS

_TURNED, _PROFILE, _TILTED = 20.0, 40.0, 12.0  # degrees from which a head is called so
_BEARD, _STUBBLE = 0.4, 0.0  # of `Skin.beard`
_EYE_TOPICS = ("eyes", "eyes wide", "eyes narrowed")
_REFUSED_SHARE = 0.1  # of the questions that no face answers
_SHOWN_WEIGHT = 3  # otherwise nine of ten answers would be "no"


@dataclass(frozen=True)
class Facts:
    """What a scene shows, beyond action units.

    Attributes:
        expression: its visible part.
        worn: glasses, hat and hand.
        beard: as in `Skin`.
        covered: whether a hat or a scarf is on the head.
        yaw, roll: as in `Render`.
    """

    expression: Expression
    worn: Accessories
    beard: float
    covered: bool
    yaw: float
    roll: float


def draw_question(facts: Facts, random: np.random.Generator) -> tuple[str, str, str]:
    """Draw a topic, a question about it and the answer for a face; topics that the face shows are more frequent."""
    names = [name for name in TOPICS if name != REFUSED]
    names += [name for name in names if _is_shown(name, facts)] * (_SHOWN_WEIGHT - 1)
    name = REFUSED if random.random() < _REFUSED_SHARE else names[random.integers(len(names))]
    questions = TOPICS[name].questions
    return name, questions[random.integers(len(questions))], answer_to(name, facts)


def answer_to(name: str, facts: Facts) -> str:
    """The answer about a topic that is true of a face."""
    if name in _EYE_TOPICS and facts.worn.dark_glasses:
        return HIDDEN_EYES
    answers = (claim for claim in TOPICS[name].answers if is_true(claim, facts.expression.units))
    texts = [claim.text for claim in answers if claim.text != HIDDEN_EYES]
    return _CHOICES[name](facts, texts) if name in _CHOICES else texts[0]


def _is_shown(name: str, facts: Facts) -> bool:
    return any(claim.shows and is_true(claim, facts.expression.units) for claim in TOPICS[name].answers)


def wordings(task: Task) -> tuple[str, ...]:
    """The questions about a task, besides the fixed one."""
    return (*QUESTION_TEMPLATES[task], *_PLAIN_WORDINGS[task])


# How people ask who do not know the task.
_PLAIN_WORDINGS: dict[Task, tuple[str, ...]] = {
    "emotion": (
        "Is this person happy?", "Is this person sad?", "Is this person angry?", "Is this person afraid?",
        "Is this person surprised?", "Is this person disgusted?", "Does this person look neutral?", "Is she happy?",
        "Is he angry?", "Is he sad?", "Does she look scared?", "Does this person look worried?", "How does she feel?",
        "How does he feel?", "What is the emotion?", "What do you see?", "Describe this face.",
        "Describe the expression.",
        "What is the expression?", "What does this face express?", "Why does this face look like that?",
    ),
    "action_units": (
        "Which muscles move?", "Which facial movements do you see?", "List the AUs.", "Action units?",
        "What moves in this face?", "Which parts of the face are active?",
    ),
}  # fmt: skip


def _strength(facts: Facts, texts: list[str]) -> str:
    return texts[strength_of(facts.expression)] if facts.expression.units else texts[0]


def _certainty(facts: Facts, texts: list[str]) -> str:
    clear, weak, mixed, hidden = texts
    if facts.worn.dark_glasses or facts.worn.hand or abs(facts.yaw) > _PROFILE:
        return hidden
    if facts.expression.emotion is None:
        return mixed
    return weak if facts.expression.emotion != "neutral" and strength_of(facts.expression) == 0 else clear


def _valence(facts: Facts, texts: list[str]) -> str:
    negative, neither, uncertain = texts[-3:]
    if facts.expression.emotion == "happiness" and 12 in facts.expression.units:
        return texts[0]
    if facts.expression.emotion in ("sadness", "anger", "disgust", "fear"):
        return negative
    return uncertain if facts.expression.emotion is None and facts.expression.units else neither


def _glasses(facts: Facts, texts: list[str]) -> str:
    clear, dark, none = texts
    return none if facts.worn.lenses is None else dark if facts.worn.dark_glasses else clear


def _beard(facts: Facts, texts: list[str]) -> str:
    dense, stubble, none = texts
    return dense if facts.beard >= _BEARD else stubble if facts.beard > _STUBBLE else none


def _hat(facts: Facts, texts: list[str]) -> str:
    return texts[0 if facts.covered or facts.worn.brim else 1]


def _hand(facts: Facts, texts: list[str]) -> str:
    hand, thing, free = texts
    return hand if facts.worn.hand else thing if facts.worn.object or facts.worn.dark_glasses else free


def _direction(angle: float, limit: float, texts: list[str]) -> str:
    """The first text for angles beyond the limit, the second for those on the other side, and the third between."""
    return texts[2] if abs(angle) <= limit else texts[0 if angle > 0 else 1]


_CHOICES: dict[str, Callable[[Facts, list[str]], str]] = {
    "strength": _strength,
    "certainty": _certainty,
    "valence": _valence,
    "glasses": _glasses,
    "beard": _beard,
    "hat": _hat,
    "hand": _hand,
    "turned": lambda facts, texts: _direction(facts.yaw, _TURNED, texts),
    "tilted": lambda facts, texts: _direction(facts.roll, _TILTED, texts),
}

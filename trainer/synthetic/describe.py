"""Descriptions of an expression in the style of FABA-Instruct: degrees, reasons, negations and caveats.

The wording depends on the face alone (its units, their intensities and combinations), so that a model can learn it;
only the closing caveat is random. First sentences avoid words in which the official emotion parse, which searches for
substrings, finds a negation ("nose", "another").
"""

from collections.abc import Collection, Mapping

import numpy as np

from sdk.bundles.language import AnswerLanguage, Claim, DescriptionLanguage, ListLanguage, Opening
from sdk.faba.vocabulary import ACTION_UNITS, FABA_UNITS, Emotion
from trainer.synthetic.expression import Expression
from trainer.synthetic.topics import TOPICS

_DEGREES = ((0.5, "slightly"), (0.75, "clearly"), (2.0, "strongly"))

_OPENINGS: dict[Emotion, tuple[str, str, str]] = {
    "happiness": (
        "The person appears a little happy.",
        "The face conveys clear happiness.",
        "The face conveys strong happiness.",
    ),
    "sadness": (
        "The face conveys a hint of sadness.",
        "The face conveys clear sadness.",
        "The person appears to feel deep sadness.",
    ),
    "surprise": (
        "The person appears slightly surprised.",
        "The face conveys clear surprise.",
        "The person appears very surprised.",
    ),
    "anger": (
        "The face conveys a hint of anger.",
        "The face conveys clear anger.",
        "The person appears to feel strong anger.",
    ),
    "neutral": ("The face appears neutral.",) * 3,
    "disgust": (
        "The face conveys a hint of disgust.",
        "The face conveys clear disgust.",
        "The person appears to feel strong disgust.",
    ),
    "fear": (
        "The face conveys a hint of fear.",
        "The face conveys clear fear.",
        "The person appears to feel strong fear.",
    ),
}

# Appearance of each unit.
_CUES: dict[int, str] = {
    1: "the inner brows are raised",
    2: "the outer brows are lifted",
    4: "the brows are lowered and drawn together",
    5: "the eyes are opened wide",
    6: "the cheeks are raised",
    7: "the eyelids are tightened",
    9: "the nose is wrinkled",
    10: "the upper lip is raised",
    12: "the corners of the mouth are pulled up into a smile",
    14: "the corners of the mouth are dimpled",
    15: "the corners of the mouth are turned down",
    16: "the lower lip is pulled down",
    17: "the chin is pushed up",
    20: "the lips are stretched sideways",
    23: "the lips are tightened",
    24: "the lips are pressed together",
    25: "the lips are parted",
    26: "the jaw is dropped",
    27: "the mouth is stretched wide open",
    43: "the eyes are closed",
}
# Code -> meaning of the unit alone, other units that change the meaning, and the changed meaning.
_LINKS: dict[int, tuple[str, frozenset[int], str]] = {
    1: ("which can be a sign of worry or sadness", frozenset({2, 5, 26, 27}), "as seen in surprise and fear"),
    2: ("which is typical of surprise", frozenset({4, 20}), "as seen in fear"),
    4: ("which suggests concentration or anger", frozenset({1, 15}), "as seen in grief and worry"),
    5: ("which suggests alertness", frozenset({1, 2}), "as seen in surprise and fear"),
    6: ("which narrows the eyes from below", frozenset({12}), "as in a genuine smile"),
    7: ("which narrows the gaze", frozenset({4, 23, 24}), "as seen in anger"),
    9: ("which is typical of disgust", frozenset({4}), "as seen in disgust and anger"),
    10: ("which deepens the folds beside the nose", frozenset({9, 15}), "as seen in disgust"),
    12: ("which is typical of a polite smile", frozenset({6, 25}), "as seen in happiness"),
    14: ("which can be a sign of contempt", frozenset({12}), "as in a smirk"),
    15: ("which is typical of sadness", frozenset({9, 10}), "as seen in disgust"),
    16: ("which shows the lower teeth", frozenset({4}), "as seen in anger"),
    17: ("which bunches the skin of the chin", frozenset({15}), "as in a pout before tears"),
    20: ("which flattens the mouth", frozenset({1, 4, 5}), "as seen in fear"),
    23: ("which makes them look thin", frozenset({4, 7}), "as seen in anger"),
    24: ("which suggests tension", frozenset({4, 7}), "as seen in anger"),
    25: ("which leaves a gap between them", frozenset({12}), "so that the teeth may show in the smile"),
    26: ("which opens the mouth", frozenset({1, 2, 5}), "as seen in surprise"),
    27: ("which opens the mouth as far as it goes", frozenset({1, 2, 5}), "as seen in astonishment"),
    43: ("which hides the gaze", frozenset({1, 15}), "as in grief"),
}
_BROWS_RAISED = (1, 2)
_MOUTH_OPEN = (25, 26, 27)
_SMILE_AND_FROWN = (4, 12, 15)
# Reasons of each emotion. A description gives the first one that is true of the face.
_REASONS: dict[Emotion, tuple[Claim, ...]] = {
    "happiness": (
        Claim(text="The cheeks take part, which suggests a genuine smile.", shows=((6,), (12,))),
        Claim(text="The cheeks are not involved, so the smile may be polite.", shows=((12,),), denies=(6,)),
        Claim(text="The smile gives the face a friendly look.", shows=((12,),)),
    ),
    "sadness": (
        Claim(text="Slanting brows and a downturned mouth together are typical of grief.", shows=((1,), (4,), (15,))),
        Claim(text="The drooping mouth gives the face a downcast look.", shows=((15,),)),
        Claim(text="Slanting brows and an open mouth look like crying.", shows=((1,), (4,), _MOUTH_OPEN)),
        Claim(text="The raised inner brows give the face a sorrowful look.", shows=((1,),)),
    ),
    "surprise": (
        Claim(text="Wide eyes and raised brows suggest something unexpected.", shows=((5,), _BROWS_RAISED)),
        Claim(
            text="The raised brows and the open mouth suggest something unexpected.", shows=(_BROWS_RAISED, _MOUTH_OPEN)
        ),
        Claim(text="Wide eyes and an open mouth suggest something unexpected.", shows=((5,), _MOUTH_OPEN)),
        Claim(text="The raised brows suggest something unexpected.", shows=(_BROWS_RAISED,)),
    ),
    "anger": (
        Claim(text="Lowered brows above an open mouth look like shouting.", shows=((4,), (26, 27))),
        Claim(text="Tense lids under lowered brows give the gaze a hard look.", shows=((4,), (7,))),
        Claim(text="The lowered brows give the gaze a hard look.", shows=((4,),)),
    ),
    "neutral": (
        Claim(
            text="The mouth is open but not smiling, and there is no frown.",
            shows=(_MOUTH_OPEN,),
            denies=_SMILE_AND_FROWN,
        ),
        Claim(text="There is no smile and no frown.", denies=_SMILE_AND_FROWN),
    ),
    "disgust": (
        Claim(text="The wrinkled nose looks as if something smelled bad.", shows=((9,),)),
        Claim(text="The raised upper lip looks as if something tasted bad.", shows=((10,),)),
    ),
    "fear": (
        Claim(
            text="Raised, drawn brows and a stretched mouth look like a reaction to danger.",
            shows=(_BROWS_RAISED, (4,), (20,)),
        ),
        Claim(
            text="Raised, drawn brows and wide eyes look like a reaction to danger.", shows=(_BROWS_RAISED, (4,), (5,))
        ),
        Claim(text="Wide eyes and a tense mouth look like a reaction to danger.", shows=((5,), (20, *_MOUTH_OPEN))),
        Claim(text="Raised, drawn brows look like a reaction to danger.", shows=(_BROWS_RAISED, (4,))),
    ),
}
_BLURRED_BY = {6: (12, 0.6)}  # a smile of this intensity raises the cheeks, whether AU6 acts or not
_UNGRADED = {27, 43}  # described without a degree
_WEAK = "The expression is weak, so the interpretation can be subjective."
_CAVEAT = "Context would be needed to be certain."
_MOST_SIGNS = 5
_NEVER_DENIED = (6,)  # a model of renders misses the raised cheeks of broad smiles in photographs
_REST = "The brows, the eyes and the mouth are at rest."
_LIST_OPENING = "The following action units (AUs) are visible in this face:"
_NO_UNITS = f"No action units are visible in this face. {_REST}"
_UNEVEN = ", more on one side"


def _level(intensity: float) -> int:
    return next(level for level, (limit, _) in enumerate(_DEGREES) if intensity < limit)


def strength_of(expression: Expression) -> int:
    """0 for a weak expression, 1 for a clear one, 2 for a strong one; the expression has a unit."""
    return _level(float(np.mean(list(expression.units.values()))))


def degree(intensity: float) -> str:
    """An adverb for an intensity in 0..1."""
    return _DEGREES[_level(intensity)][1]


def describe_emotion(expression: Expression, random: np.random.Generator) -> str:
    """Emotion, visible signs and reason; with a caveat if the expression is weak, and sometimes otherwise."""
    emotion, units = expression.emotion or "neutral", expression.units
    level = strength_of(expression) if units else 1
    cues = [_CUES[code] for code in sorted(units)[:_MOST_SIGNS]]
    sentences = [_OPENINGS[emotion][level], _sentence(cues) if cues else _REST if emotion == "neutral" else ""]
    sentences.append(next((claim.text for claim in _REASONS[emotion] if is_true(claim, units)), ""))
    if _is_weak(emotion, level):
        sentences.append(_WEAK)
    elif random.random() < 0.1:
        sentences.append(_CAVEAT)
    return " ".join(sentence for sentence in sentences if sentence)


def is_true(claim: Claim, units: Mapping[int, float]) -> bool:
    """Whether a face with these units bears out a claim; what it denies must be clearly absent."""
    return all(units.keys() & set(group) for group in claim.shows) and all(
        _is_clearly_absent(code, units) for code in claim.denies
    )


def _is_clearly_absent(code: int, units: Mapping[int, float]) -> bool:
    blurring, limit = _BLURRED_BY.get(code, (code, 1.0))
    return code not in units and units.get(blurring, 0.0) < limit


def _is_weak(emotion: Emotion, level: int) -> bool:
    return level == 0 and emotion != "neutral"


def _sentence(cues: list[str]) -> str:
    text = cues[0] if len(cues) == 1 else ", ".join(cues[:-1]) + " and " + cues[-1]
    return text[0].upper() + text[1:] + "."


def describe_units(expression: Expression, random: np.random.Generator) -> str:
    """A list of the active units, each with its degree and a reason."""
    if not expression.units:
        return _NO_UNITS
    lines = [_LIST_OPENING, ""]
    lines += [f"{number}. {_line(expression, code)}" for number, code in enumerate(sorted(expression.units), 1)]
    if random.random() < 0.1:
        lines += ["", _CAVEAT]
    return "\n".join(lines)


def _line(expression: Expression, code: int) -> str:
    """One unit: its code, name, appearance and meaning in combination with the others."""
    uneven = _UNEVEN if min(expression.sides.get(code, (1.0, 1.0))) < 0.65 else ""
    appearance = appearance_of(code, expression.units[code])
    return f"AU{code} ({ACTION_UNITS[code]}): {appearance}{uneven}, {meaning_of(code, expression.units)}."


def appearance_of(code: int, intensity: float) -> str:
    """What a unit of an intensity in 0..1 looks like: "The chin is clearly pushed up"."""
    cue = _CUES[code]
    if code not in _UNGRADED:
        verb = " are " if " are " in cue else " is "
        cue = cue.replace(verb, f"{verb}{degree(intensity)} ", 1)
    return cue[0].upper() + cue[1:]


def meaning_of(code: int, units: Collection[int]) -> str:
    """What a unit suggests beside other active units: "as in a genuine smile"."""
    alone, companions, together = _LINKS[code]
    return alone if companions.isdisjoint(units) else together


def answer_language() -> AnswerLanguage:
    """The language of `describe_emotion`, `describe_units` and the answers to short questions."""
    intensities = [limit - 0.1 for limit, _ in _DEGREES]
    return AnswerLanguage(
        emotion=DescriptionLanguage(
            openings={
                text: Opening(emotion=emotion, closings=(_WEAK,) if _is_weak(emotion, level) else ("", _CAVEAT))
                for emotion, texts in _OPENINGS.items()
                for level, text in enumerate(texts)
            },
            signs=_CUES,
            most_signs=_MOST_SIGNS,
            rest=_REST,
            never_denied=_NEVER_DENIED,
            reasons=_REASONS,
        ),
        action_units=ListLanguage(
            opening=f"{_LIST_OPENING}\n\n",
            appearances={
                code: tuple(dict.fromkeys(appearance_of(code, intensity) for intensity in intensities))
                for code in FABA_UNITS
            },
            uneven=_UNEVEN,
            meanings={code: (alone, together) for code, (alone, _, together) in _LINKS.items()},
            closings=(f"\n\n{_CAVEAT}",),
            no_units=(_NO_UNITS,),
        ),
        topics=TOPICS,
    )

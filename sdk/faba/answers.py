"""Read labels from the words of an answer: the emotion, the action units, and the sentences that give the reasons.

This parser understands negation ("There is no AU6 visible", "AU 12 is not engaged", "isn't happy"). The parser behind
the published figures does not; it is in `sdk.faba.rege`.
"""

import re
from collections.abc import Iterable, Iterator

from pydantic import BaseModel, ConfigDict

from sdk.faba.vocabulary import ACTION_UNITS, CATEGORY_WORDS, EMOTIONS, SYNONYMS, Emotion


class EmotionReading(BaseModel):
    """The emotion in an answer.

    Attributes:
        label: one of the seven categories, or None if the words name none of them.
        description: the answer as the model wrote it; empty if only labels were requested.
        scores: probability of each category in 0..1, or None without label scores.
    """

    model_config = ConfigDict(frozen=True)

    label: Emotion | None
    description: str
    scores: dict[Emotion, float] | None = None


class ActionUnitReading(BaseModel):
    """One FACS action unit in an answer.

    Attributes:
        code: the FACS number, e.g. 4.
        id: "AU4".
        name: the FACS name, e.g. "Brow Lowerer".
        present: False if the answer mentions the unit only as absent.
        reason: sentences of the answer about this unit; empty if only labels were requested.
        intensity: None; EmoLA does not model intensity.
    """

    model_config = ConfigDict(frozen=True)

    code: int
    id: str
    name: str
    present: bool
    reason: str
    intensity: float | None = None


MAX_CHARACTERS = 100_000  # of an answer that is read; no context of a model holds as many
_MENTION = re.compile(r"\b(?:AUs?|action\s+units?)[\s#:-]*0*(\d{1,2})\b", re.IGNORECASE)
_FURTHER_CODE = re.compile(r"(?:\s*,\s*(?:and\s+|or\s+)?|\s+(?:and|or|nor)\s+)0*(\d{1,2})\b(?!\s*[%./:]?\d)")
_NEGATION = re.compile(
    r"\b(?:no|not|never|without|neither|nor|none|cannot|lacks?|lacking|absence)\b|n['’]t\b", re.IGNORECASE
)
_DENIAL = re.compile(
    r"(?:\bnot|\bnever|n['’]t|\bnowhere)\s+(?:\w+\s+){0,2}?"
    r"(?:present|visible|active|activated|engaged|seen|evident|observed|apparent|shown|detected|involved|raised)\b"
    r"|(?:\b(?:is|are|was|seems|appears)|[:-])\s*(?:absent|missing|inactive|none)\b",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[;:!?\n]|\.(?=\s|$)|\b(?:but|while|whereas|although|though|however|yet)\b", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^a-z\s])")
_MARKUP = re.compile(r"^\s*(?:\d{1,2}[.)]|[-*•])\s+|\*\*|__|^#+\s*")
_HEADING = re.compile(r"^(?:AU|action unit)[\s#-]*\d{1,2}\b[^:.]{0,40}:\s+(?=\S)", re.IGNORECASE)
_BARE_CODES = re.compile(r"\s*\d{1,2}(?:\s*,\s*\d{1,2})*\s*")


def read_emotion(text: str) -> EmotionReading:
    """Read the emotion that an answer affirms.

    Category words ("sad", "happiness") take precedence over synonyms ("somber", "bright"), and earlier words over later
    ones. Negated words do not count.

    Args:
        text: an answer in any style; may be empty. What follows after `MAX_CHARACTERS` is not read.
    """
    words = list(_affirmed_words(text[:MAX_CHARACTERS].lower()))
    for table in (CATEGORY_WORDS, SYNONYMS):
        for word in words:
            for emotion in EMOTIONS:
                if word in table[emotion]:
                    return EmotionReading(label=emotion, description=text)
    return EmotionReading(label=None, description=text)


def read_action_units(text: str) -> list[ActionUnitReading]:
    """Read every action unit that an answer mentions, in the order of their FACS numbers.

    A unit is present if it is affirmed at least once. Numbers that FACS does not define are dropped. The time is linear
    in the length of the text.

    Args:
        text: an answer: a list, prose, or labels only, such as "AU1, AU4" or "4, 9, 15". What follows after
            `MAX_CHARACTERS` is not read.
    """
    text = text[:MAX_CHARACTERS]
    if _BARE_CODES.fullmatch(text):
        text = f"AUs {text.strip()}"
    present: dict[int, bool] = {}
    reasons: dict[int, dict[str, None]] = {}
    current: list[int] = []
    for line in text.splitlines():
        line = _MARKUP.sub("", line).strip()
        for sentence in _SENTENCE.split(line):
            affirmed = _read_sentence(sentence)
            current = list(affirmed) or current
            for code, is_affirmed in affirmed.items():
                present[code] = present.get(code, False) or is_affirmed
            for code in current:
                reasons.setdefault(code, {})[sentence] = None
        if not line or line.endswith((".", "!", "?")):
            current = []  # lines below belong to a unit only if its heading does not end a sentence
    return [_reading(code, present[code], reasons[code]) for code in sorted(present)]


def _reading(code: int, present: bool, sentences: Iterable[str]) -> ActionUnitReading:
    return action_unit(code, present, _HEADING.sub("", " ".join(filter(None, sentences))))


def action_unit(code: int, present: bool, reason: str = "") -> ActionUnitReading:
    """Make a reading with the FACS name of the unit."""
    return ActionUnitReading(code=code, id=f"AU{code}", name=ACTION_UNITS[code], present=present, reason=reason)


def _read_sentence(sentence: str) -> dict[int, bool]:
    """The action units of a sentence, and whether one of their mentions is affirmed."""
    mentions = list(_MENTION.finditer(sentence))
    if not mentions:
        return {}
    clauses = _Marks([match.end() for match in _CLAUSE_END.finditer(sentence)])
    negations = _Marks([match.end() for match in _NEGATION.finditer(sentence)])
    ends = [*(match.start() for match in mentions[1:]), len(sentence)]
    affirmed: dict[int, bool] = {}
    for mention, end in zip(mentions, ends, strict=True):
        start = mention.start()
        clause = start if sentence[start - 1 : start] == "." else clauses.last(start)
        denied = negations.last(start) > clause or bool(_DENIAL.search(sentence, start, end))
        for code in _codes(sentence, mention):
            affirmed[code] = affirmed.get(code, False) or not denied
    return affirmed


class _Marks:
    """Ascending positions in a sentence, of which the last one before ascending places is asked for."""

    def __init__(self, positions: list[int]) -> None:
        self._positions, self._next = positions, 0

    def last(self, place: int) -> int:
        """The last position up to `place`; 0 if there is none."""
        while self._next < len(self._positions) and self._positions[self._next] <= place:
            self._next += 1
        return self._positions[self._next - 1] if self._next else 0


def _codes(sentence: str, mention: re.Match[str]) -> Iterator[int]:
    """Yield the codes of a mention; "AUs 4, 9 and 15" are three."""
    found: re.Match[str] | None = mention
    while found:
        if int(found[1]) in ACTION_UNITS:
            yield int(found[1])
        found = _FURTHER_CODE.match(sentence, found.end())


def _affirmed_words(text: str) -> Iterator[str]:
    """Yield the words that do not follow a negation in their clause."""
    begin = 0
    for end in [m.end() for m in _CLAUSE_END.finditer(text)] + [len(text)]:
        clause = text[begin:end]
        negation = _NEGATION.search(clause)
        yield from re.findall(r"\w+", clause[: negation.start()] if negation else clause)
        begin = end

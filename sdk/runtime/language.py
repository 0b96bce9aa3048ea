"""Decode only what the language of a bundle contains, and describe only what the list of action units bears out.

The language is a finite automaton over bytes. A token may come next if its bytes lead from one place in the text to
another (Willard and Louf 2023, "Efficient Guided Generation for Large Language Models"). Only a token that is about to
be chosen is checked, so an answer that stays in the language is the same as without it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeAlias

import numpy as np
from tokenizers import Tokenizer

from sdk.arrays import Floats
from sdk.bundles.language import AnswerLanguage, Claim
from sdk.bundles.manifest import Manifest
from sdk.bundles.prompt import Prompt, plain_question
from sdk.faba.answers import read_action_units
from sdk.faba.prompts import TASKS, Task
from sdk.faba.vocabulary import ACTION_UNITS, FABA_UNITS

State: TypeAlias = tuple[Any, ...]  # a kind, and what it depends on; () is the end of an answer
Place: TypeAlias = tuple[bytes, State]  # what is left of a text, and the state after it
Places: TypeAlias = frozenset[Place]
Step: TypeAlias = tuple[str, State]
Scope: TypeAlias = tuple[tuple[Task, ...], tuple[str, ...]]  # tasks and topics

CLEAR = 0.1  # largest probability at its place in the list with which a unit is denied
_NOTICED = 0.005  # probability below which another token is left out of that sum
_KEPT_GRAMMARS = 64  # one for each set of units
_KEPT_PLACES = 20_000  # of a grammar


@dataclass(frozen=True)
class Evidence:
    """What the list of action units says about a face.

    Attributes:
        present: the units that it lists.
        absent: units that it leaves out and that were clearly less probable than what it says.
    """

    present: frozenset[int]
    absent: frozenset[int]

    def agrees_with(self, claim: Claim) -> bool:
        """Whether what the claim shows is listed, and what it denies is not."""
        shown = all(self.present.intersection(group) for group in claim.shows)
        return shown and self.present.isdisjoint(claim.denies)


class Grammar:
    """The automaton of some answers.

    Args:
        language: of the bundle.
        tasks: whose answers it contains.
        evidence: limits descriptions and short answers to what it bears out; None allows all of them.
        topics: whose short answers it contains.
    """

    def __init__(
        self,
        language: AnswerLanguage,
        tasks: Sequence[Task],
        evidence: Evidence | None,
        topics: Sequence[str] = (),
    ) -> None:
        self._list, self._description = language.action_units, language.emotion
        self._tasks, self._evidence = tasks, evidence
        self._short = [claim for topic in topics for claim in language.topics[topic].answers]
        self._signs = sorted(evidence.present & set(FABA_UNITS) if evidence else FABA_UNITS)
        self._known: dict[tuple[Places, bytes], Places] = {}
        self.start: Places = frozenset({(b"", ("start",))})

    def after(self, places: Places, text: bytes) -> Places:
        """The places that a text leads to; none if it does not belong to the language."""
        if (found := self._known.get((places, text))) is None:
            if len(self._known) >= _KEPT_PLACES:
                self._known.clear()
            found = self._known[places, text] = frozenset(self._walk(places, text))
        return found

    def ends(self, places: Places) -> bool:
        """Whether an answer may end here."""
        waiting = [state for rest, state in places if not rest]
        while waiting:
            if not (state := waiting.pop()):
                return True
            waiting += [following for text, following in self._steps(state) if not text]
        return False

    def accepts(self, answer: str) -> bool:
        """Whether an answer, without white space around it, belongs to the language."""
        return self.ends(self.after(self.start, f" {answer}".encode()))

    def units(self, places: Places) -> frozenset[int]:
        """The units of which one may be the next in the list, or is being written."""
        return frozenset(code for _, state in places for code in _units_at(state))

    def _walk(self, places: Places, text: bytes) -> Iterator[Place]:
        waiting = [(rest, state, text) for rest, state in places]
        while waiting:
            rest, state, text = waiting.pop()
            if rest.startswith(text):
                yield rest[len(text) :], state
            elif text.startswith(rest) and state:
                text = text[len(rest) :]
                waiting += [(step.encode(), following, text) for step, following in self._steps(state)]

    def _steps(self, state: State) -> Iterator[Step]:
        """The texts that may follow in a state, and the states after them."""
        match state:
            case ("start",):
                return self._start()
            case ("item", number, last):
                return self._item(number, last)
            case ("appearance", number, code):
                return self._appearance(number, code)
            case ("meaning", number, code):
                return ((f", {text}.", ("listed", number, code)) for text in self._list.meanings[code])
            case ("listed", number, code):
                return self._listed(number, code)
            case ("signs", opening):
                return self._first_sign(opening)
            case ("sign", opening, code, count, joined):
                return self._next_sign(opening, code, count, joined)
            case ("reason", opening):
                return self._reason(opening)
            case ("closing", opening):
                closings = self._description.openings[opening].closings
                return ((f" {text}" if text else "", ()) for text in closings)
            case _:
                return iter(())

    def _start(self) -> Iterator[Step]:
        if "action_units" in self._tasks:
            yield from ((f" {text}", ()) for text in self._list.no_units)
            yield f" {self._list.opening}", ("item", 1, 0)
        if "emotion" in self._tasks:
            yield from ((f" {text}", ("signs", text)) for text in self._description.openings)
        yield from ((f" {claim.text}", ()) for claim in self._short if self._may_answer(claim))

    def _item(self, number: int, last: int) -> Iterator[Step]:
        for code in FABA_UNITS:
            if code > last:
                yield f"{number}. AU{code} ({ACTION_UNITS[code]}): ", ("appearance", number, code)

    def _appearance(self, number: int, code: int) -> Iterator[Step]:
        for text in self._list.appearances[code]:
            yield text, ("meaning", number, code)
            yield text + self._list.uneven, ("meaning", number, code)

    def _listed(self, number: int, code: int) -> Iterator[Step]:
        yield "", ()
        yield from ((text, ()) for text in self._list.closings)
        if code < FABA_UNITS[-1]:
            yield "\n", ("item", number + 1, code)

    def _first_sign(self, opening: str) -> Iterator[Step]:
        """The first visible sign. Without units, a neutral face is at rest; another emotion has no such sentence."""
        texts = self._description
        for code in self._signs:
            text = texts.signs[code]
            yield f" {text[0].upper()}{text[1:]}", ("sign", opening, code, 1, "")
        if texts.openings[opening].emotion == "neutral" and not (self._evidence and self._signs):
            yield f" {texts.rest}", ("reason", opening)
        elif not self._signs:
            yield "", ("reason", opening)

    def _next_sign(self, opening: str, code: int, count: int, joined: str) -> Iterator[Step]:
        """The sign after unit `code`, which was the last one of the sentence if it was joined by "and"."""
        if joined != ", ":
            yield ".", ("reason", opening)
        later = [following for following in self._signs if following > code]
        if joined == " and " or count == self._description.most_signs:
            return
        for following in later:
            sign = self._description.signs[following]
            yield f" and {sign}", ("sign", opening, following, count + 1, " and ")
            if following < later[-1] and count + 1 < self._description.most_signs:
                yield f", {sign}", ("sign", opening, following, count + 1, ", ")

    def _reason(self, opening: str) -> Iterator[Step]:
        """A reason that the evidence bears out; none if there is none."""
        claims = self._description.reasons.get(self._description.openings[opening].emotion, ())
        said = [claim for claim in claims if self._is_borne_out(claim)]
        yield from ((f" {claim.text}", ("closing", opening)) for claim in said)
        if not said or self._evidence is None:
            yield "", ("closing", opening)

    def _is_borne_out(self, claim: Claim) -> bool:
        """Whether a description may make a claim of its own accord: what it denies is clearly absent."""
        if self._evidence is None:
            return True
        clear = self._evidence.absent.difference(self._description.never_denied).issuperset(claim.denies)
        return clear and self._evidence.agrees_with(claim)

    def _may_answer(self, claim: Claim) -> bool:
        """Whether a claim may answer a question: the list says no by leaving units out, but not those alone whose
        absence the model cannot tell.
        """
        if self._evidence is None:
            return True
        uncertain = claim.denies and set(claim.denies).issubset(self._description.never_denied)
        return self._evidence.agrees_with(claim) and not uncertain


def _units_at(state: State) -> Sequence[int]:
    match state:
        case ("start",):
            return FABA_UNITS
        case ("item", _, last):
            return [code for code in FABA_UNITS if code > last]
        case ("appearance" | "meaning" | "listed", _, code):
            return (code,)
        case _:
            return ()


class TokenRule:
    """Which tokens may come next in one answer.

    Args:
        grammar: of the answer.
        pieces: bytes of each token; those without any are never chosen.
        stop_ids: tokens that end the answer.

    Attributes:
        ended: the answer is complete.
    """

    def __init__(self, grammar: Grammar, pieces: Sequence[bytes], stop_ids: Sequence[int]) -> None:
        self.ended = False
        self._grammar, self._pieces, self._stop_ids = grammar, pieces, stop_ids
        self._places, self._text = grammar.start, b""
        self._doubts = dict.fromkeys(FABA_UNITS, 0.0)

    def allows(self, token: int) -> bool:
        """Whether a token may come next."""
        if token in self._stop_ids:
            return self._grammar.ends(self._places)
        return bool(self._pieces[token] and self._grammar.after(self._places, self._pieces[token]))

    def choose(self, logits: Floats) -> int:
        """The most probable token that may come next; the end of the answer if there is none."""
        token = int(logits.argmax())
        return token if self.allows(token) else self.candidates(logits, 0.0)[0]

    def candidates(self, logits: Floats, margin: float) -> list[int]:
        """The token that `choose` chooses, and those that may come next and are less than `margin` nats behind it."""
        found: list[int] = []
        for token in np.argsort(-logits, kind="stable").tolist():
            if found and logits[token] <= logits[found[0]] - margin:
                break
            if self.allows(token):
                found.append(token)
        return found or [self._stop_ids[0]]

    def mask(self, logits: Floats) -> Floats:
        """The logits with minus infinity for every token that may not come next."""
        allowed = [token for token in range(len(self._pieces)) if self.allows(token)] or [self._stop_ids[0]]
        masked = np.full_like(logits, -np.inf)
        masked[allowed] = logits[allowed]
        return masked

    def advance(self, token: int, logits: Floats) -> None:
        """Continue with the token that was chosen from (vocabulary,) logits."""
        if len(self._grammar.units(self._places)) > 1:
            self._doubt(token, logits)
        self.ended = token in self._stop_ids
        if not self.ended:
            self._places = self._grammar.after(self._places, self._pieces[token])
            self._text += self._pieces[token]

    def evidence(self) -> Evidence:
        """What the answer, a list of action units, says about a face."""
        listed = read_action_units(self._text.decode(errors="replace"))
        present = frozenset(unit.code for unit in listed if unit.present)
        clear = frozenset(code for code, doubt in self._doubts.items() if doubt <= CLEAR)
        return Evidence(present, clear - present)

    def _doubt(self, token: int, logits: Floats) -> None:
        """Add the probability that the list continued with another unit, where it could."""
        odds = np.exp(logits - logits.max())
        odds /= odds.sum()
        for other in np.flatnonzero(odds > _NOTICED).tolist():
            if other != token and other not in self._stop_ids and self._pieces[other]:
                for code in self._grammar.units(self._grammar.after(self._places, self._pieces[other])):
                    self._doubts[code] += float(odds[other])


class TokenRules:
    """The rules of a bundle's answers.

    Args:
        language, prompt: of its manifest.
        pieces: text of each token, as SentencePiece writes it.
    """

    def __init__(self, language: AnswerLanguage, prompt: Prompt, pieces: Sequence[str]) -> None:
        self._pieces, self._prompt = [_bytes_of(piece) for piece in pieces], prompt
        self._grammar = lru_cache(_KEPT_GRAMMARS)(partial(Grammar, language))
        self._topics = {
            plain_question(question): name for name, topic in language.topics.items() for question in topic.questions
        }

    @classmethod
    def of(cls, manifest: Manifest, tokenizer: Tokenizer) -> "TokenRules | None":
        """The rules of a bundle; None without a language, or if it does not answer both tasks."""
        if manifest.language is None or not set(TASKS) <= set(manifest.prompt.questions):
            return None
        pieces = [tokenizer.id_to_token(token) or "" for token in range(manifest.geometry.vocabulary)]
        return cls(manifest.language, manifest.prompt, pieces)

    def scope_of(self, question: "Task | str") -> Scope:
        """What an answer may belong to; nothing if the model may write freely."""
        if question in self._prompt.questions:
            return tuple(task for task in TASKS if task == question), ()
        if self._prompt.known_questions is None:
            return (), ()
        if topic := self._topics.get(plain_question(question)):
            return (), (topic,)
        return TASKS, () if self._prompt.knows(question) else tuple(dict.fromkeys(self._topics.values()))

    def rule(self, scope: Scope, evidence: Evidence | None = None) -> TokenRule:
        """The rule of one answer; arguments as in `Grammar`."""
        tasks, topics = scope
        return TokenRule(self._grammar(tasks, evidence, topics), self._pieces, self._prompt.stop_ids)


def _bytes_of(piece: str) -> bytes:
    """The text of a piece of SentencePiece: "▁" is a space, "<0x0A>" a single byte."""
    if piece.startswith("<0x") and piece.endswith(">"):
        return bytes.fromhex(piece[3:-1])
    return piece.replace("▁", " ").encode()

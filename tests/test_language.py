"""A bundle with an answer language: every answer belongs to it, and the two answers about a face agree."""

import sys

import numpy as np
import pytest
from conftest import GOLDEN
from crafted import manifest_alone

from sdk import Analyzer
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import read_manifest
from sdk.errors import FormatError
from sdk.faba.answers import read_action_units
from sdk.faba.prompts import TASKS
from sdk.faba.vocabulary import FABA_UNITS
from sdk.runtime.backends.interface import Decoder
from sdk.runtime.backends.select import open_backend
from sdk.runtime.clock import Clock
from sdk.runtime.generate import Sampling
from sdk.runtime.language import Evidence, Grammar, TokenRules
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference
from trainer.synthetic.accessories import draw_accessories
from trainer.synthetic.describe import answer_language, describe_emotion, describe_units
from trainer.synthetic.expression import draw_emotion, draw_units
from trainer.synthetic.questions import Facts, draw_question
from trainer.synthetic.topics import HIDDEN_EYES, REFUSAL, REFUSED, UNCERTAIN

sys.path.append(str(GOLDEN.parents[2] / "benchmarks"))
from answers_agree import contradictions

LANGUAGE, EMBEDDED_LANGUAGE = answer_language(), read_manifest(EMBEDDED).language
UNITS = frozenset(FABA_UNITS)


def evidence(*present, unsure=()):
    return Evidence(frozenset(present), UNITS.difference(present, unsure))


def grammar(*tasks, evidence=None, never_denied=LANGUAGE.emotion.never_denied, language=LANGUAGE, topics=()):
    emotion = language.emotion.model_copy(update={"never_denied": never_denied})
    return Grammar(language.model_copy(update={"emotion": emotion}), tasks, evidence, topics)


def embedded_grammar(*tasks, **options):
    return grammar(*tasks, language=EMBEDDED_LANGUAGE, topics=tuple(EMBEDDED_LANGUAGE.topics), **options)


class Noisy(Decoder):
    """The embedded decoder with so much noise that without a rule its answers are no words.

    The noise depends on the position alone, so that drafts, plain loop and batch see the same logits.
    """

    def __init__(self, decoder, strength) -> None:
        self._inner, self._strength, self.drafts = decoder, strength, True
        super().__init__(decoder.embed(np.arange(read_manifest(EMBEDDED).geometry.vocabulary)))

    def new_pool(self, capacity, sequences):
        return self._inner.new_pool(capacity, sequences)

    def extend(self, cache, rows, last=1):
        logits = self._inner.extend(cache, rows, last).copy()
        for index in range(last):
            logits[index] += self._noise(cache.length - last + index, logits.shape[1])
        return logits

    def _compute_step(self, pool, rows):
        logits = self._inner._compute_step(pool, rows).copy()
        for row, length in zip(logits, pool.lengths, strict=False):
            row += self._noise(length, len(row))
        return logits

    def _noise(self, position, size):
        return np.random.default_rng(position).normal(0, self._strength, size).astype(np.float32)


@pytest.fixture(scope="module", params=[0, 3, 12], ids="noise {}".format)
def pipeline(request):
    manifest = read_manifest(EMBEDDED)
    backend = open_backend(EMBEDDED, manifest, threads=1)
    if request.param:
        object.__setattr__(backend, "decoder", Noisy(backend.decoder, request.param))
    return Pipeline(EMBEDDED, manifest, backend)


@pytest.fixture(scope="module")
def faces(pipeline):
    """Opens each face of the reference anew: `faces()` yields encoded faces."""
    reference = Reference.load(EMBEDDED / "reference.npz")
    pairs = list(zip(reference.rows, reference.landmark_features, strict=True))
    return lambda: (pipeline.encode_rows(*pair) for pair in pairs)


def test_every_training_text_belongs_to_the_language():
    """Also with the units of the same face as evidence: what agrees is never forbidden."""
    random = np.random.default_rng(5)
    lists = grammar("action_units")
    for _ in range(400):
        assert lists.accepts(describe_units(draw_units(random), random))
        face = draw_emotion(random)
        text = describe_emotion(face, random)
        for limits in (None, evidence(*face.units)):
            assert grammar("emotion", evidence=limits, never_denied=()).accepts(text), (text, face.units)


def test_a_description_without_a_reason_belongs_to_it():
    """With the units that it names, no usual reason of fear is visible; without them, any of both may be meant."""
    text = "The face conveys clear fear. The inner brows are raised and the lips are parted."
    for limits in (None, evidence(1, 25)):
        assert grammar("emotion", evidence=limits).accepts(text)
    assert not grammar("emotion", evidence=evidence(1, 5, 25)).accepts(text)


@pytest.mark.parametrize(
    "text",
    [
        "The mouth is stretched wide open mouth suggest not smilvolved.",
        "The face conveys clear fear. The nose is wrinkled. The nose",
        "The face conveys clear fear. The nose is wrinkled, the lips are parted. The wrinkled nose",
        "The face conveys clear happiness. The lips are parted and the cheeks are raised. There is no smile.",
        "The following action units (AUs) are visible in this face:\n\n2. AU4 (Brow Lowerer): The brows are",
        "No action units are visible in this face",
        "",
    ],
)
def test_other_texts_do_not(text):
    assert not grammar(*TASKS).accepts(text)


HAPPY = "The face conveys clear happiness."
SMILE = "The corners of the mouth are pulled up into a smile."
POLITE = "The cheeks are not involved, so the smile may be polite."
FRIENDLY = "The smile gives the face a friendly look."
NEUTRAL, REST, CALM = (
    "The face appears neutral.",
    "The brows, the eyes and the mouth are at rest.",
    "There is no smile and no frown.",
)


@pytest.mark.parametrize(
    ("limits", "text", "belongs"),
    [
        (evidence(12), f"{HAPPY} {SMILE} {POLITE}", True),
        (evidence(12, unsure=(6,)), f"{HAPPY} {SMILE} {POLITE}", False),  # raised cheeks are possible
        (evidence(12, unsure=(6,)), f"{HAPPY} {SMILE} {FRIENDLY}", True),
        (evidence(12, unsure=(6,)), f"{HAPPY} {SMILE}", False),
        (evidence(17), "The face conveys clear sadness. The chin is pushed up.", True),
        (evidence(6, 12), f"{HAPPY} {SMILE} {POLITE}", False),
        (
            evidence(6, 12),
            f"{HAPPY} The cheeks are raised and the corners of the mouth are pulled up into a smile.",
            False,
        ),
        (evidence(25), f"{HAPPY} {SMILE}", False),
        (evidence(), f"{HAPPY} {REST}", False),
        (evidence(), HAPPY, True),
        (evidence(), f"{NEUTRAL} {REST} {CALM}", True),
        (evidence(unsure=(4,)), f"{NEUTRAL} {REST} {CALM}", False),
        (evidence(4), f"{NEUTRAL} {REST}", False),
        (evidence(2), f"{NEUTRAL} The outer brows are lifted. {CALM}", True),
    ],
)
def test_a_description_says_what_the_units_bear_out(limits, text, belongs):
    """With a reason if the evidence bears one out, without one otherwise; a denial needs a clear case."""
    assert grammar("emotion", evidence=limits, never_denied=()).accepts(text) is belongs


def test_raised_cheeks_are_never_denied():
    """On photographs the model leaves AU6 out of broad smiles with certainty, so its language denies it nowhere."""
    for text, belongs in ((f"{HAPPY} {SMILE} {POLITE}", False), (f"{HAPPY} {SMILE} {FRIENDLY}", True)):
        assert grammar("emotion", evidence=evidence(12)).accepts(text) is belongs


def test_answers_belong_to_the_language_and_agree(pipeline, faces):
    for face in faces():
        with face:
            answers = {task: pipeline.ask(face, task, Clock()).text for task in TASKS}
            limits = face.list_rule.evidence()
        units = {unit.code for unit in read_action_units(answers["action_units"]) if unit.present}
        assert limits.present == units
        assert embedded_grammar("action_units").accepts(answers["action_units"])
        assert embedded_grammar("emotion", evidence=limits).accepts(answers["emotion"])
        assert not list(contradictions(answers["emotion"], units)), answers


def test_without_the_language_noise_breaks_the_words(pipeline, faces):
    """So the tests of this page can fail; comparisons with torch, which has no language, run like this."""
    free = Pipeline(EMBEDDED, pipeline.manifest.without_language(), pipeline.backend)
    broken = 0
    for face in faces():
        with face:
            broken += not embedded_grammar("emotion").accepts(free.ask(face, "emotion", Clock()).text)
    assert (broken > 0) == isinstance(pipeline.backend.decoder, Noisy)


def test_the_order_of_the_questions_does_not_matter(pipeline, faces):
    """Each alone, in both orders, after a list that was cut off, with and without drafts: the same tokens."""
    for first, second, third in zip(faces(), faces(), faces(), strict=True):
        with first, second, third:
            described = pipeline.ask(first, "emotion", Clock()).token_ids
            listed = pipeline.ask(first, "action_units", Clock()).token_ids
            assert tuple(pipeline.generate(second, "action_units", drafts=False)) == listed
            assert tuple(pipeline.generate(second, "emotion", drafts=False)) == described
            assert pipeline.ask(third, "action_units", Clock(), max_new_tokens=3).truncated
            assert pipeline.ask(third, "emotion", Clock()).token_ids == described


def test_a_sampled_answer_and_one_to_another_question_belong_to_it(pipeline, faces):
    for face in faces():
        with face:
            sampled = pipeline.ask(face, "action_units", Clock(), sampling=Sampling(1.5, seed=1)).text
            other = pipeline.ask(face, "How old is this person?", Clock()).text
            limits = face.list_rule.evidence()
        assert embedded_grammar("action_units").accepts(sampled)
        assert embedded_grammar(*TASKS, evidence=limits).accepts(other)


def test_a_batch_gives_the_same_answers(t1):
    with Analyzer() as analyzer:
        alone = analyzer.analyze(t1, color="rgb", tasks=("emotion",)).faces
        (batch,) = analyzer.analyze_batch([t1], color="rgb")
    assert [face.emotion for face in batch.faces] == [face.emotion for face in alone]


@pytest.mark.parametrize("part", ["signs", "appearances", "meanings"])
def test_a_language_without_a_unit_is_refused(tmp_path, part):
    def change(content):
        del content["language"]["emotion" if part == "signs" else "action_units"][part]["12"]

    folder = manifest_alone(tmp_path / "bundle", change)
    with pytest.raises(FormatError, match=f"{part}.*expected a text for each of 20 action units"):
        read_manifest(folder)


def test_the_embedded_bundle_has_the_language_of_training_texts():
    assert EMBEDDED_LANGUAGE == LANGUAGE


def topic(name, *present, unsure=()):
    return grammar(evidence=evidence(*present, unsure=unsure), topics=(name,))


@pytest.mark.parametrize(
    ("name", "units", "unsure", "text", "belongs"),
    [
        ("smile", (12,), (), "Yes, the corners of the mouth are pulled up.", True),
        ("smile", (12,), (), "No, there is no smile.", False),
        ("smile", (), (), "No, there is no smile.", True),
        ("smile", (), (12,), "No, there is no smile.", True),  # a direct question: the list leaves it out
        ("smile", (), (12,), UNCERTAIN, True),
        ("smile", (), (), "The eyes are closed.", False),
        ("eyes", (43,), (), "The eyes are open.", False),
        ("brow movement", (4,), (), "The brows are raised.", False),
        ("cheeks", (12,), (), "No, the cheeks are not raised.", False),  # never denied
        (REFUSED, (12,), (), REFUSAL, True),
    ],
)
def test_a_short_answer_says_what_the_units_bear_out(name, units, unsure, text, belongs):
    assert topic(name, *units, unsure=unsure).accepts(text) is belongs


def test_every_short_training_answer_belongs_to_its_topic():
    """Also with the units of the same face as evidence; except that cheeks are not raised, which is never said."""
    random = np.random.default_rng(6)
    for _ in range(300):
        face = draw_emotion(random) if random.random() < 0.5 else draw_units(random)
        worn = draw_accessories("cap", random)
        facts = Facts(face, worn, random.uniform(0, 1), True, random.normal(0, 30), random.normal(0, 12))
        name, question, answer = draw_question(facts, random)
        assert question in LANGUAGE.topics[name].questions
        accepted = grammar(evidence=evidence(*face.units), topics=(name,)).accepts(answer)
        assert accepted is (answer != "No, the cheeks are not raised."), (answer, face)


@pytest.mark.parametrize("name", LANGUAGE.topics)
def test_every_face_has_an_answer_to_every_question(name):
    """One that says something, with no unit in the list or one."""
    informed = [claim.text for claim in LANGUAGE.topics[name].answers if claim.text not in (UNCERTAIN, HIDDEN_EYES)]
    for units in ((), *((code,) for code in UNITS)):
        limited = grammar(evidence=evidence(*units), topics=(name,))
        assert any(map(limited.accepts, informed)) is (name != "cheeks" or 6 in units), units


def test_a_question_leads_to_the_answers_of_its_topic():
    """In any capitals and with or without its mark; an unknown question to all answers, a task to its own."""
    prompt = read_manifest(EMBEDDED).prompt
    known = (*prompt.known_questions, *(each for topic in LANGUAGE.topics.values() for each in topic.questions))
    rules = TokenRules(LANGUAGE, prompt.model_copy(update={"known_questions": known}), [])
    assert rules.scope_of("is this person  SMILING") == ((), ("smile",))
    assert rules.scope_of("emotion") == (("emotion",), ())
    assert rules.scope_of("What mood does this face suggest, and why?") == (TASKS, ())
    assert rules.scope_of("How old is this person?") == (TASKS, tuple(LANGUAGE.topics))
    free = TokenRules(LANGUAGE, prompt.model_copy(update={"known_questions": None}), [])
    assert free.scope_of("How old is this person?") == ((), ())

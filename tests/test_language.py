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
from sdk.runtime.language import Evidence, Grammar
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference
from trainer.synthetic.describe import answer_language, describe_emotion, describe_units
from trainer.synthetic.expression import draw_emotion, draw_units

sys.path.append(str(GOLDEN.parents[2] / "benchmarks"))
from answers_agree import contradictions

LANGUAGE = answer_language()
UNITS = frozenset(FABA_UNITS)


def evidence(*present, unsure=()):
    return Evidence(frozenset(present), UNITS.difference(present, unsure))


def grammar(*tasks, evidence=None, never_denied=LANGUAGE.emotion.never_denied):
    emotion = LANGUAGE.emotion.model_copy(update={"never_denied": never_denied})
    return Grammar(LANGUAGE.model_copy(update={"emotion": emotion}), tasks, evidence)


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
        (evidence(12, unsure=(6,)), f"{HAPPY} {SMILE}", True),
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
    for text, belongs in ((f"{HAPPY} {SMILE} {POLITE}", False), (f"{HAPPY} {SMILE}", True)):
        assert grammar("emotion", evidence=evidence(12)).accepts(text) is belongs


def test_answers_belong_to_the_language_and_agree(pipeline, faces):
    for face in faces():
        with face:
            answers = {task: pipeline.ask(face, task, Clock()).text for task in TASKS}
            limits = face.list_rule.evidence()
        units = {unit.code for unit in read_action_units(answers["action_units"]) if unit.present}
        assert limits.present == units
        assert grammar("action_units").accepts(answers["action_units"])
        assert grammar("emotion", evidence=limits).accepts(answers["emotion"])
        assert not list(contradictions(answers["emotion"], units)), answers


def test_without_the_language_noise_breaks_the_words(pipeline, faces):
    """So the tests of this page can fail; comparisons with torch, which has no language, run like this."""
    free = Pipeline(EMBEDDED, pipeline.manifest.without_language(), pipeline.backend)
    broken = 0
    for face in faces():
        with face:
            broken += not grammar("emotion").accepts(free.ask(face, "emotion", Clock()).text)
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
        assert grammar("action_units").accepts(sampled)
        assert grammar(*TASKS, evidence=limits).accepts(other)


def test_a_batch_gives_the_same_answers(t1):
    pytest.importorskip("dlib")
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


def test_the_embedded_bundle_has_the_language_of_its_training_texts():
    assert read_manifest(EMBEDDED).language == LANGUAGE

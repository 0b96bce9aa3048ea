"""Two answers about one face that are decoded together: the tokens of one after the other."""

import threading

import numpy as np
import pytest

from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import read_manifest
from sdk.errors import CancelledError
from sdk.runtime import speculate
from sdk.runtime.backends.select import open_backend
from sdk.runtime.clock import Clock
from sdk.runtime.drafts import Drafter
from sdk.runtime.memory import Memory
from sdk.runtime.open import open_pipeline
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference

WITHOUT = {"language": None, "ngrams": None}  # what makes two answers follow each other


class ExactClock(Drafter):
    """A step takes one second, and each further row, also that of another answer, `row` seconds more."""

    def __init__(self, row: float) -> None:
        super().__init__(None)
        self.row, self.pairs, self.alone = row, 0, 0

    def learn(self, draft, accepted, seconds) -> None:
        self.alone += 1
        super().learn(draft, accepted, 1 + self.row * len(draft))

    def learn_pair(self, seconds, rows_again) -> None:
        self.pairs += 1
        super().learn_pair(1 + self.row, rows_again)


class Model:
    """An opened bundle, and its answers about the faces of its reference, one after the other."""

    def __init__(self, folder, device="auto") -> None:
        manifest = read_manifest(folder).model_copy(update=WITHOUT)
        backend = open_backend(folder, manifest, device, threads=1)
        self.pipeline, self.single = (Pipeline(folder, manifest, backend, pairs=pairs) for pairs in (True, False))
        self.reference = Reference.load(folder / "reference.npz")

    def answers(self, limit, *, pairs=True, cancel=None):
        pipeline, given, found = self.pipeline if pairs else self.single, self.reference, []
        for rows, features in zip(given.rows, given.landmark_features, strict=True):
            with pipeline.encode_rows(rows, features) as face:
                for tasks in (given.tasks, given.tasks[::-1]):
                    answers = pipeline.ask_all(face, tasks, Clock(), limit, cancel)
                    assert tuple(answers) == tasks
                    found.append({task: answers[task] for task in given.tasks})
        return found

    def use(self, row) -> ExactClock:
        self.pipeline.drafter = ExactClock(row)
        return self.pipeline.drafter

    def stop_at(self, monkeypatch, *tokens) -> None:
        prompt = self.pipeline.manifest.prompt.model_copy(update={"stop_ids": tokens})
        manifest = self.pipeline.manifest.model_copy(update={"prompt": prompt})
        for pipeline in (self.pipeline, self.single):
            monkeypatch.setattr(pipeline, "manifest", manifest)


@pytest.fixture(scope="module", params=["nano", "int4", "none"])
def model(request, bundle):
    return Model(EMBEDDED if request.param == "nano" else bundle("trained", request.param))


@pytest.mark.parametrize("limit", [1, 2, 60])
def test_the_tokens_of_one_after_the_other(model, limit):
    drafter = model.use(row=0.1)
    assert model.answers(limit) == model.answers(limit, pairs=False)
    assert drafter.pairs


def test_where_a_second_row_is_cheap_most_steps_are_of_both(monkeypatch):
    """Where near ties are frequent they are not, because all rows since the last one are read again."""
    monkeypatch.setattr(speculate, "NEAR_TIE", 0.0)
    model = Model(EMBEDDED)
    drafter = model.use(row=0.3)
    found = model.answers(None)
    assert found == model.answers(None, pairs=False)
    shorter = sum(min(len(answer.token_ids) for answer in answers.values()) for answers in found)
    assert drafter.pairs > 0.8 * shorter


def test_answers_of_different_lengths(model, monkeypatch):
    """The end mark stands early in one answer and late or never in the other, which goes on alone."""
    long = model.answers(60, pairs=False)[0]
    first, second = (answer.token_ids for answer in long.values())
    model.stop_at(monkeypatch, next(token for token in first[4:] if token not in second[:12]))
    expected = model.answers(60, pairs=False)
    lengths = [len(answer.token_ids) for answer in expected[0].values()]
    assert abs(lengths[0] - lengths[1]) >= 5
    drafter = model.use(row=0.1)
    assert model.answers(60) == expected
    assert drafter.pairs


def test_every_near_tie_is_read_again(model, monkeypatch):
    """If every choice counts as one, each comes from the logits of the plain loop; then steps of both are dear."""
    expected = model.answers(12, pairs=False)
    monkeypatch.setattr(speculate, "NEAR_TIE", np.inf)
    drafter = model.use(row=0.1)
    assert model.answers(12) == expected
    assert 0 < drafter.pairs < drafter.alone


def test_where_a_second_row_costs_more_than_a_step_answers_are_decoded_alone(model):
    drafter = model.use(row=1.5)
    assert model.answers(40) == model.answers(40, pairs=False)
    assert drafter.pairs < 0.2 * drafter.alone


def test_cancel_stops_both_and_the_face_can_be_asked_again(model, monkeypatch):
    cancel, drafter = threading.Event(), model.use(row=0.1)
    expected = model.answers(30, pairs=False)[0]
    monkeypatch.setattr(drafter, "learn_pair", lambda *_: cancel.set())
    with model.pipeline.encode_rows(model.reference.rows[0], model.reference.landmark_features[0]) as face:
        with pytest.raises(CancelledError):
            model.pipeline.ask_all(face, model.reference.tasks, Clock(), 30, cancel)
        for task, answer in expected.items():
            assert "".join(model.pipeline.stream(face, task, 30)).strip() == answer.text


@pytest.mark.parametrize("kept", WITHOUT)
def test_where_they_depend_or_drafts_are_as_fast_one_follows_the_other(monkeypatch, kept):
    """The embedded bundle with its answer language, and with its table of training answers."""
    manifest = read_manifest(EMBEDDED)
    manifest = manifest.model_copy(update={name: None for name in WITHOUT if name != kept})
    pipeline = Pipeline(EMBEDDED, manifest, open_backend(EMBEDDED, manifest))
    reference = Reference.load(EMBEDDED / manifest.reference)
    monkeypatch.setattr(type(pipeline.backend.decoder), "step", None)
    with pipeline.encode_rows(reference.rows[0], reference.landmark_features[0]) as face:
        assert len(face.rewind().pool.lengths) == 1
        assert all(answer.text for answer in pipeline.ask_all(face, reference.tasks, Clock(), None, None).values())


def test_they_need_memory_for_two_faces():
    manifest = read_manifest(EMBEDDED).model_copy(update=WITHOUT)
    memory, found = Memory.of(manifest, manifest.variants[0]), []
    reference = Reference.load(EMBEDDED / manifest.reference)
    for faces in (1, 2):
        limit = memory.weights + faces * memory.per_face
        pipeline, _ = open_pipeline(EMBEDDED, manifest, "cpu", memory_limit=limit)
        with pipeline.encode_rows(reference.rows[0], reference.landmark_features[0]) as face:
            found.append(len(face.rewind().pool.lengths))
    assert found == [1, 2]

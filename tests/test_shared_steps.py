"""Answers that several threads draw at once share decode steps and have the tokens that each has alone."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest

from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import read_manifest
from sdk.errors import BackendError, CancelledError
from sdk.runtime import speculate
from sdk.runtime.backends.interface import Sampling
from sdk.runtime.backends.select import open_backend
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.shared_steps import SharedSteps
from sdk.runtime.verify import Reference

THREADS = 6


class Model:
    """An opened bundle, its reference faces, and what it answers about them one after the other, without drafts."""

    def __init__(self, folder, limit, **prompt):
        manifest, self.limit = read_manifest(folder), limit
        self.manifest = manifest.model_copy(update={"prompt": manifest.prompt.model_copy(update=prompt)})
        self.pipeline = Pipeline(folder, self.manifest, open_backend(folder, self.manifest, threads=1))
        self.decoder = self.pipeline.backend.decoder
        reference = Reference.load(folder / "reference.npz")
        self.faces = list(zip(reference.rows, reference.landmark_features, strict=True))
        self.questions = (*sorted(reference.tasks), "Is this person smiling?", "Why?")
        self.alone = {job: self.answer(job, drafts=False) for job in self.jobs}

    @property
    def jobs(self):
        return [(face, question) for face in range(len(self.faces)) for question in self.questions]

    def answer(self, job, steps=None, **options):
        """(token ids, truncated) of one question about one face, in a cache of its own."""
        index, question = job
        with self.pipeline.encode_rows(*self.faces[index]) as face:
            if self.manifest.language and question == "emotion":  # needs the list of action units
                list(self.pipeline.generate(face, "action_units", drafts=False))
            generation = self.pipeline.generate(face, question, self.limit, **options)
            return list(steps.tokens(generation) if steps else generation), generation.truncated

    def steps(self, sequences=THREADS):
        return SharedSteps(self.decoder, self.pipeline.capacity, sequences)


@pytest.fixture(scope="module", params=["nano", "int4", "none"])
def model(request):
    if request.param == "nano":
        return Model(EMBEDDED, 512)
    return Model(request.getfixturevalue("bundle")("trained", request.param), 60, stop_ids=tuple(range(2, 700, 40)))


@pytest.fixture
def sizes(model, monkeypatch):
    """The number of sequences of every step."""
    found, step = [], model.decoder.step

    def counted(pool, rows):
        found.append(len(rows))
        return step(pool, rows)

    monkeypatch.setattr(model.decoder, "step", counted)
    return found


def test_every_answer_has_the_tokens_that_it_has_alone(model, sizes):
    """Other faces and questions beside it, in another order each time; answers end at different steps."""
    jobs, steps = model.jobs * 6, model.steps()
    with ThreadPoolExecutor(THREADS) as threads:
        found = list(threads.map(lambda job: model.answer(job, steps), jobs))
    assert found == [model.alone[job] for job in jobs]
    assert len({len(tokens) for tokens, _ in found}) > 2
    assert max(sizes) > 2
    steps.close()


def test_near_ties_are_read_again_beside_other_answers(model, monkeypatch):
    """OpenVINO overwrites the logits of a step when its pool is read again; the other answers need theirs."""
    step, extend, last = model.decoder.step, model.decoder.extend, []

    def remembered(pool, rows):
        last[:] = [(pool, step(pool, rows))]
        return last[0][1]

    def overwriting(cache, *arguments, **options):
        for pool, logits in last:
            if pool is cache.pool:
                logits.fill(-np.inf)
        return extend(cache, *arguments, **options)

    monkeypatch.setattr(model.decoder, "step", remembered)
    monkeypatch.setattr(model.decoder, "extend", overwriting)
    monkeypatch.setattr(speculate, "NEAR_TIE", 3.0)
    jobs, steps = 4 * long_jobs(model)[:3], model.steps()
    with ThreadPoolExecutor(THREADS) as threads:
        found = list(threads.map(lambda job: model.answer(job, steps), jobs))
    assert last
    assert found == [model.alone[job] for job in jobs]
    steps.close()


class Running:
    """Started answers, one for each job."""

    def __init__(self, model, jobs, sequences=THREADS, **options):
        self.model, self.steps = model, model.steps(sequences)
        self.faces = [model.pipeline.encode_rows(*model.faces[index]) for index, _ in jobs]
        self.generations = [
            model.pipeline.generate(face, question, model.limit, **options)
            for face, (_, question) in zip(self.faces, jobs, strict=True)
        ]
        self.tokens = [self.steps.tokens(generation) for generation in self.generations]


def long_jobs(model):
    return [(index, "action_units") for index in range(len(model.faces))] * 3


def test_an_answer_joins_at_the_next_step_and_leaves_when_it_is_not_read_any_more(model, sizes):
    jobs = long_jobs(model)[:3]
    first, second, third = Running(model, jobs).tokens
    head = list(islice(first, 2))
    assert sizes == []  # alone: with drafts
    other = list(islice(second, 2))
    assert sizes[-1] == 2
    list(islice(third, 2))
    assert sizes[-1] == 3
    third.close()
    other += second
    assert sizes[-1] == 2
    head += first
    assert [head, other] == [model.alone[job][0] for job in jobs[:2]]


def test_one_thread_decodes_for_all(model, sizes):
    """The others find their tokens decoded, though nobody asked for them."""
    jobs = long_jobs(model)[:2]
    running = Running(model, jobs)
    first, second = running.tokens
    heads = [list(islice(tokens, 2)) for tokens in (first, second)]
    assert heads[0] + list(first) == model.alone[jobs[0]][0]
    assert len(running.generations[1].ready) > 1
    count = len(sizes)
    assert heads[1] + list(second) == model.alone[jobs[1]][0]
    assert len(sizes) == count


def test_cancelling_one_answer_leaves_the_others(model):
    jobs, cancel = long_jobs(model)[:2], threading.Event()
    kept, cancelled = Running(model, jobs), Running(model, jobs[:1], cancel=cancel)
    leaving = kept.steps.tokens(cancelled.generations[0])
    heads = [list(islice(tokens, 2)) for tokens in (*kept.tokens, leaving)]
    cancel.set()
    with pytest.raises(CancelledError):
        list(leaving)
    assert [head + list(rest) for head, rest in zip(heads, kept.tokens, strict=False)] == [
        model.alone[job][0] for job in jobs
    ]


def test_a_step_that_fails_fails_for_all_and_the_next_answer_is_right(model, monkeypatch):
    jobs = long_jobs(model)[:2]
    running = Running(model, jobs)
    for tokens in running.tokens:
        list(islice(tokens, 2))

    def broken(pool, rows):
        raise BackendError("no power")

    with monkeypatch.context() as patch:
        patch.setattr(model.decoder, "step", broken)
        for tokens in running.tokens:
            with pytest.raises(BackendError, match="no power"):
                list(tokens)
    assert model.answer(jobs[0], running.steps) == model.alone[jobs[0]]


def test_a_sampled_answer_is_drawn_alone(model, sizes):
    sampling, jobs = Sampling(temperature=1.0, seed=3), long_jobs(model)[:2]
    greedy, sampled = Running(model, jobs[:1]), Running(model, jobs[1:], sampling=sampling)
    list(islice(greedy.tokens[0], 2))
    found = list(greedy.steps.tokens(sampled.generations[0]))
    assert found == model.answer(jobs[1], sampling=sampling)[0]
    assert sizes == []

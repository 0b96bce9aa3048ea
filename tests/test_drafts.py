"""Drafted decoding: fewer forwards and the same tokens, even if the table is wrong."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN

from export.ngrams import count_ngrams, read_training_files
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import read_manifest
from sdk.errors import CancelledError, DataError, IntegrityError
from sdk.runtime import speculate
from sdk.runtime.backends.select import open_backend
from sdk.runtime.clock import Clock
from sdk.runtime.drafts import Drafter, PromptLookup
from sdk.runtime.ngrams import ContextTree, Ngrams
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference

TRAIN = GOLDEN / "data/FABAInstruct/train/train_anno.json"


class Counting(Drafter):
    """A drafter with an exact clock: a step takes one second, and each further row `row` seconds more."""

    def __init__(self, table, row: float) -> None:
        super().__init__(table)
        self.row, self.drafted, self.accepted, self.seconds = row, [], [], 0.0

    def learn(self, draft, accepted, seconds) -> None:
        self.drafted.append(len(draft))
        self.accepted.append(accepted)
        self.seconds += 1 + self.row * len(draft)
        super().learn(draft, accepted, 1 + self.row * len(draft))

    def slower(self) -> float:
        """Time relative to the plain loop, which takes one second for each token."""
        return self.seconds / (len(self.accepted) + sum(self.accepted))


class Model:
    """An opened bundle, its reference faces, and its answers about each of them without drafts.

    In the embedded bundle the list of action units is asked first and in full: its language needs it for a description.
    """

    def __init__(self, folder, limit) -> None:
        self.pipeline = Pipeline(folder, read_manifest(folder), open_backend(folder, read_manifest(folder), threads=1))
        reference = Reference.load(folder / "reference.npz")
        self.faces = list(zip(reference.rows, reference.landmark_features, strict=True))
        fixed = sorted(reference.tasks) if self.pipeline.manifest.language else reference.tasks
        self.tasks = (*fixed, "Is this person smiling?")
        self.limit = limit
        self.vocabulary = self.pipeline.manifest.geometry.vocabulary
        self.plain = self.answers(drafts=False)

    def answers(self, limit=None, **options):
        """(token ids, truncated) for each face and question."""
        found = []
        for rows, features in self.faces:
            with self.pipeline.encode_rows(rows, features) as face:
                for task in self.tasks:
                    generation = self.pipeline.generate(face, task, limit or self.limit, **options)
                    found.append((list(generation), generation.truncated))
                    assert next(generation, None) is None
        return found

    def table(self, wrong: int = 0) -> ContextTree:
        """A table of the model's own answers; with `wrong`, every entry is wrong and has probability 1."""
        questions = [list(self.pipeline.question_ids(task)) for task in self.tasks] * len(self.faces)
        pairs = zip(questions, self.plain, strict=True)
        table = count_ngrams([(ids + answer, len(ids)) for ids, (answer, _) in pairs] * 3)
        if not wrong:
            return ContextTree(table)
        followers = (table.follower + wrong) % self.vocabulary
        return ContextTree(Ngrams(table.parent, table.token, followers, np.ones_like(table.share)))

    def use(self, table, row: float) -> Counting:
        self.pipeline.drafter = Counting(table, row)
        return self.pipeline.drafter


@pytest.fixture(scope="module", params=["nano", "int4", "none"])
def model(request, bundle):
    return Model(EMBEDDED, 512) if request.param == "nano" else Model(bundle("trained", request.param), 90)


def test_the_tokens_of_greedy_in_fewer_forwards(model):
    """With a table of the model's own answers, a forward gives more than three tokens, and the answers are the same."""
    drafter = model.use(model.table(), row=0.1)
    assert model.answers() == model.plain
    tokens = sum(len(ids) for ids, _ in model.plain)
    assert tokens > 3 * len(drafter.drafted), f"{tokens} tokens in {len(drafter.drafted)} forwards"


def test_without_a_table_prompt_lookup_drafts(model):
    model.use(None, row=0.1)
    assert model.answers() == model.plain


def test_a_wrong_table_is_switched_off(model):
    """Every entry is wrong and certain: the tokens stay the same, and a few answers lose less than 5 % of the time."""
    drafter = model.use(model.table(wrong=1), row=0.3)
    assert model.answers() == model.answers() == model.plain
    assert sum(drafter.drafted) > 0
    assert drafter.slower() < 1.05, f"{drafter.slower():.3f} of the time without drafts"


def test_if_rows_are_expensive_little_is_drafted(model):
    """A row that costs more than a step never pays, even with a perfect table; a few answers are enough to learn it."""
    drafter = model.use(model.table(), row=1.2)
    assert model.answers() == model.answers() == model.plain
    assert drafter.slower() < 1.05, f"{drafter.slower():.3f} of the time without drafts"


def test_the_budget_is_exact(model):
    for limit in (1, 2, 3, 7, 20):
        expected = model.answers(limit, drafts=False)
        model.use(model.table(), row=0.0)
        assert model.answers(limit) == expected


def test_a_stop_token_inside_a_draft_ends_the_answer(model, monkeypatch):
    """The table continues after it; the answer does not."""
    stop = model.plain[0][0][8]
    drafter = model.use(model.table(), row=0.0)
    prompt = model.pipeline.manifest.prompt.model_copy(update={"stop_ids": (stop,)})
    monkeypatch.setattr(model.pipeline, "manifest", model.pipeline.manifest.model_copy(update={"prompt": prompt}))
    expected = model.answers(drafts=False)
    assert not expected[0][1]
    assert model.answers() == expected
    assert max(drafter.drafted) > 3


def test_a_near_tie_is_read_again(model, monkeypatch):
    """If every choice counts as a near tie, each comes from logits that equal those of the plain loop bit for bit."""
    monkeypatch.setattr(speculate, "NEAR_TIE", np.inf)
    drafter = model.use(model.table(), row=0.0)
    assert model.answers() == model.plain
    assert max(drafter.drafted) > 3
    assert max(drafter.accepted) == 0


def test_cancel_stops_within_a_token(model):
    model.use(model.table(), row=0.0)
    cancel = threading.Event()
    with model.pipeline.encode_rows(*model.faces[0]) as face:
        generation = model.pipeline.generate(face, model.tasks[0], 50, cancel=cancel)
        drawn = [next(generation) for _ in range(6)]
        cancel.set()
        with pytest.raises(CancelledError):
            next(generation)
    assert drawn == model.plain[0][0][:6]


def test_a_stream_gives_the_answer_in_pieces(model):
    model.use(model.table(), row=0.0)
    with model.pipeline.encode_rows(*model.faces[0]) as face:
        pieces = list(model.pipeline.stream(face, model.tasks[0], 60))
        answer = model.pipeline.ask(face, model.tasks[0], Clock(), 60)
    assert len(pieces) > 5
    assert "".join(pieces).strip() == answer.text
    assert answer.token_ids == tuple(model.plain[0][0][:60])


def test_the_longest_known_context_decides(tmp_path):
    """After 5 comes 6, in six of nine cases; after 4 5 comes 7. Shares are hits / (cases + 1)."""
    table = count_ngrams([([1, 5, 6, 2], 1)] * 6 + [([4, 5, 7, 2], 1)] * 3)
    table.save(tmp_path / "answers.ngrams")
    tree = ContextTree(Ngrams.load(tmp_path / "answers.ngrams", 10))
    assert tree.predict([9, 5]) == (6, pytest.approx(0.6, abs=1e-3))
    assert tree.predict([9, 1, 5]) == (6, pytest.approx(6 / 7, abs=1e-3))
    assert tree.predict([9, 4, 5]) == (7, pytest.approx(0.75, abs=1e-3))
    assert tree.predict([5, 7]) == (2, pytest.approx(0.75, abs=1e-3))
    assert tree.predict([8]) is None


@pytest.mark.parametrize("answers", [[], [([1, 5, 6], 3)]])
def test_without_answers_nothing_is_known(tmp_path, answers):
    """No record, or none with a token to predict, gives an empty table, which can be written and read."""
    count_ngrams(answers).save(tmp_path / "answers.ngrams")
    table = Ngrams.load(tmp_path / "answers.ngrams", 10)
    assert len(table.parent) == 0
    assert ContextTree(table).predict([1, 5]) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parent": [0, 2]}, "a parent comes after its child"),
        ({"token": [3, 99]}, "outside 0..9"),
        ({"follower": [4]}, "differ in length"),
        ({"share": [0.5, 2]}, "outside 0..1"),
        ({"share": [0.5, None]}, "expected numbers, found object"),
        ({"more": [1]}, "unexpected"),
        (None, "not a table of n-grams"),
    ],
)
def test_a_damaged_table_is_refused_at_open(tmp_path, change, message):
    path = tmp_path / "answers.ngrams"
    arrays = {"parent": [0, 1], "token": [3, 4], "follower": [4, 5], "share": [0.5, 0.5], **(change or {})}
    with path.open("wb") as file:
        np.savez(file, **{name: np.array(values) for name, values in arrays.items()})
    if change is None:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(IntegrityError, match=message):
        Ngrams.load(path, 10)


def test_prompt_lookup_matches_whole_tokens():
    """Compared with a plain search, on texts whose ids share bytes."""
    random = np.random.default_rng(0)
    for _ in range(300):
        text = random.choice([0, 1, 256, 257, 65536], random.integers(1, 60)).tolist()
        places = [at for at in range(len(text) - 3) if text[at : at + 3] == text[-3:]]
        expected = text[places[-1] + 3] if places else None
        found = PromptLookup().predict(text)
        assert (found and found[0]) == expected, text


def test_answers_of_an_evaluation_file_are_refused(tmp_path):
    assert len(read_training_files([TRAIN, TRAIN])) == 24
    evaluation = tmp_path / "eval.json"
    evaluation.write_text(json.dumps([{"image": "a.png", "landmark": "a.npy", "label": 1, "gpt4": "Happy."}]))
    with pytest.raises(DataError, match="no question"):
        read_training_files([evaluation])


def test_the_benchmark_asks_for_a_table(bundle):
    """`benchmarks/drafting.py` on a bundle without a table exits with 2 and names the missing option."""
    script = Path(__file__).parents[1] / "benchmarks/drafting.py"
    command = [sys.executable, str(script), "--data", "au.json", "emotion.json", "--bundle", str(bundle())]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert "(--table)" in result.stderr

"""Label scores without decoding, compared with torch and with enumeration, and in the results."""

import json
import shutil
from itertools import combinations, pairwise

import numpy as np
import pytest
from PIL import Image

from sdk import Analyzer
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import MANIFEST, read_manifest, with_digest
from sdk.errors import ExportError, TaskError
from sdk.faba.calibration import calibration_error, fit_temperature, sharpen, sharpen_each, tempered
from sdk.faba.vocabulary import EMOTIONS, FABA_UNITS
from sdk.faces.crop import aligned_face
from sdk.runtime.clock import Clock
from sdk.runtime.labels import LabelScorer, PathReader, Trie, score_trie

CROP = (slice(40, 210), slice(140, 310))  # the astronaut's face


@pytest.fixture(scope="module")
def scored(bundle):
    return Analyzer(bundle(), scores=True)


@pytest.fixture(scope="module")
def face(scored, astronaut):
    crop = aligned_face(np.ascontiguousarray(astronaut[CROP]), scored.manifest.preprocessing.face_scale)
    with scored.pipeline.encode(crop, Clock()) as face:
        yield face


@pytest.fixture(scope="module")
def scorer(scored):
    return LabelScorer(scored.pipeline)


def torch_scores(scored, emola, astronaut, scorer):
    """The same scores computed directly: torch reads every phrase in full, without a cache or a trie."""
    import torch

    from sdk.faces.preprocess import clip_pixels, landmark_pixels

    model, pipeline, p = emola("trained"), scored.pipeline, scored.manifest.preprocessing
    crop = aligned_face(np.ascontiguousarray(astronaut[CROP]), p.face_scale)
    features = pipeline.backend.landmark(
        landmark_pixels(crop.pixels, mode=p.landmark_mode, box_xyxy=crop.box_in_crop)[None]
    )
    pixels = clip_pixels(crop.pixels, size=p.image_size, mean=p.image_mean, std=p.image_std, aspect=p.image_aspect)
    phrases = scorer.emotion_paths()
    scores = dict.fromkeys(EMOTIONS, 0.0)
    with torch.inference_mode():
        rows = model.encode(torch.from_numpy(pixels[None]), torch.from_numpy(features))[0].numpy()
        for path, label in phrases.items():
            before = (*scored.manifest.prompt.prefix_ids,), (*pipeline.question_ids("emotion"), *path)
            embed = pipeline.backend.decoder.embed
            embeds = np.concatenate([embed(before[0]), rows, embed(before[1])])
            logits = model.language_model(inputs_embeds=torch.from_numpy(embeds)[None]).logits[0, -len(path) - 1 : -1]
            share = 1.0
            for at, row in enumerate(torch.softmax(logits.double(), -1).numpy()):
                allowed = {other[at] for other in phrases if other[:at] == path[:at] and len(other) > at}
                ends = path[:at] in phrases
                share *= row[path[at]] / (1.0 if ends else sum(row[token] for token in allowed))
            rest = {other[len(path)] for other in phrases if other[: len(path)] == path and len(other) > len(path)}
            assert not rest, "in this tokenizer no phrase begins another"
            scores[label] += share
    return scores


def test_emotions_equal_torch(scored, emola, astronaut, face, scorer):
    """All seven within 1e-4, and they sum to 1; the early stop changes none by more than the mass that it skips."""
    expected = torch_scores(scored, emola, astronaut, scorer)
    found = scorer.emotions(face, coverage=1.0)
    for emotion in EMOTIONS:
        assert found[emotion] == pytest.approx(expected[emotion], abs=1e-4), emotion
    assert sum(found.values()) == pytest.approx(1)
    quick = scorer.emotions(face)
    assert max(abs(quick[emotion] - found[emotion]) for emotion in EMOTIONS) < 0.025


def test_a_label_that_begins_another_ends_where_the_model_goes_elsewhere():
    """AU1 and AU12: every token but the digit 2 belongs to AU1."""
    trie = Trie.of({(1,): "AU1", (1, 2): "AU12", (4,): "AU4"})
    after = {(): {1: 0.3, 4: 0.1, 9: 0.6}, (1,): {2: 0.25, 7: 0.75}}

    def read(path):
        row = np.full(10, 1e-12)
        for token, share in after[path].items():
            row[token] = share
        return np.log(row)

    found = score_trie(read, trie, coverage=1.0)
    assert found == pytest.approx({"AU1": 0.75 * 0.75, "AU12": 0.75 * 0.25, "AU4": 0.25})


def test_units_equal_the_enumeration_of_all_lists(scorer, face, monkeypatch):
    """With five units all 32 ascending lists can be enumerated: the pass over the units gives their marginals."""
    five = (1, 4, 12, 25, 43)
    monkeypatch.setattr("sdk.runtime.labels.FABA_UNITS", five)
    monkeypatch.setattr("sdk.runtime.labels.MIN_SHARE", 0.0)
    small = LabelScorer(scorer._pipeline)
    found = small.action_units(face, coverage=1.0)
    read = PathReader(small._pipeline, face, "action_units")
    firsts = score_trie(read, small._firsts, coverage=1.0)
    forms = [sum(p for (form, _), p in firsts.items() if form == index) for index in range(3)]
    form = int(np.argmax(forms))
    usual = firsts[-1, 0] + forms[form]
    after = {code: small._after(read, form, code, 1.0) for code in five}
    present, total = dict.fromkeys(five, 0.0), firsts[-1, 0] / usual
    for size in range(1, 6):
        for units in combinations(five, size):
            share = firsts.get((form, units[0]), 0.0) / usual
            for a, b in pairwise(units):
                share *= after[a].get(b, 0.0)
            share *= 1 - sum(after[units[-1]].values())
            total += share
            for code in units:
                present[code] += share
    assert total == pytest.approx(1, abs=1e-9)
    assert found == pytest.approx(present, abs=1e-9)


def test_labels_alone_need_no_decoding(scored, astronaut):
    analysis = scored.analyze(astronaut, color="rgb", tasks=("labels",))
    (face,) = analysis.faces
    assert "decode" not in analysis.timing_ms
    assert "labels" in analysis.timing_ms
    assert face.emotion.description == ""
    assert face.emotion.label == max(face.emotion.scores, key=face.emotion.scores.get)
    assert [unit.code for unit in face.action_units] == list(FABA_UNITS)
    assert all(unit.present == (face.action_unit_scores[unit.id] >= 0.5) for unit in face.action_units)
    assert analysis.score_calibration == "uncalibrated"
    assert analysis.tokens_per_second is None


def test_scores_beside_words(scored, astronaut):
    """The text is that of an Analyzer without scores; a warning names a label that the scores contradict."""
    analysis = scored.analyze(astronaut, color="rgb", max_new_tokens=40)
    face = analysis.faces[0]
    assert face.emotion.description
    assert face.action_units_text
    assert sum(face.emotion.scores.values()) == pytest.approx(1)
    said, best = face.emotion.label, max(face.emotion.scores, key=face.emotion.scores.get)
    contradiction = [warning for warning in analysis.warnings if "the label scores prefer" in warning]
    assert bool(contradiction) == (said is not None and said != best)
    assert analysis.tokens_per_second > 0


def test_abstaining(bundle, astronaut):
    sure = Analyzer(bundle(), scores=True, abstain_below=0.99)
    analysis = sure.analyze(astronaut, color="rgb", tasks=("labels",))
    assert analysis.faces[0].emotion.label is None
    assert any("below 0.99: no label is given" in warning for warning in analysis.warnings)
    assert len(analysis.faces[0].action_units) < len(FABA_UNITS)
    with pytest.raises(TaskError, match="abstain_below must be at least 0 and at most 1"):
        Analyzer(bundle(), abstain_below=1.5)
    with pytest.raises(TaskError, match="needs label scores"):
        Analyzer(bundle(), abstain_below=0.5).analyze(astronaut, color="rgb")


def test_a_known_temperature_is_recovered():
    """Labels from softmax(logits), scores softmax(2.5 x logits): temperature 2.5 within 5 %, error under 2 %."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 1.5, (4000, 7))
    truth = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([random.choice(7, p=row) for row in truth])
    sharp = tempered(truth, 1 / 2.5)
    temperature = fit_temperature(sharp, labels)
    assert temperature == pytest.approx(2.5, rel=0.05)
    before, after = calibration_error(sharp, labels), calibration_error(tempered(sharp, temperature), labels)
    assert after < 0.02 < 0.1 < before, (before, after)


def test_sharpening_keeps_the_order_and_one_changes_nothing():
    scores = {"a": 0.6, "b": 0.3, "c": 0.1}
    assert sharpen(scores, 1.0) == pytest.approx(scores)
    assert sharpen(scores, 0.5)["a"] == pytest.approx(0.36 / 0.46)
    assert sharpen_each({"x": 0.9}, 2.0)["x"] == pytest.approx(3 / 4)  # odds 9 -> 3


def test_few_faces_justify_little_certainty():
    """After 8 faces no probability is above 9 in 10; the order stays, and the probabilities still sum to 1."""
    assert sharpen({"a": 1.0, "b": 0.0}, 1.0, samples=8) == pytest.approx({"a": 0.9, "b": 0.1})
    assert sharpen_each({"x": 0.0, "y": 1.0}, 1.0, samples=8) == pytest.approx({"x": 0.1, "y": 0.9})
    found = sharpen({"a": 0.6, "b": 0.3, "c": 0.1}, 2.0, samples=50)
    assert sorted(found, key=found.get) == ["c", "b", "a"]
    assert sum(found.values()) == pytest.approx(1.0)


def test_the_embedded_scores_are_calibrated_and_never_certain(astronaut):
    with Analyzer(scores=True) as analyzer:
        analysis = analyzer.analyze(astronaut, color="rgb", faces="aligned", tasks=("labels",))
        fitted = {found.task: found for found in analyzer.manifest.calibration}
    assert analysis.score_calibration == "temperature"
    (face,) = analysis.faces
    for scores, labels, task in (
        (face.emotion.scores, 7, "emotion"),
        (face.action_unit_scores, 2, "action_units"),
    ):
        least = 1 / (fitted[task].samples + labels)
        assert all(least * 0.999 <= score <= 1 - least * 0.999 for score in scores.values()), scores


def test_calibration_at_export(bundle, golden, tmp_path, astronaut):
    """`emola export --label-data` on twelve labelled pictures: the manifest, `emola info` and every result say so."""
    from export.commands.export import _check_label_data
    from export.label_scores import calibrate_labels
    from sdk.commands.info import _lines

    rows = json.loads((golden / "data/FABAInstruct/train/train_anno.json").read_text())
    sets = {}
    for task, label in (("emotion", "Happiness"), ("action_units", "4, 12")):
        records = [{"image": r["image"], "landmark": r["landmark"], "label": label, "gpt4": "x"} for r in rows]
        sets[task] = tmp_path / "data" / f"{task}.json"
        sets[task].parent.mkdir(exist_ok=True)
        sets[task].write_text(json.dumps(records))
    folder = next(p for p in (golden / "data/FABAInstruct").rglob("images") if p.is_dir())
    root = folder
    while not (root / rows[0]["image"]).is_file():
        root = root.parent
    for name in {rows[0]["image"].split("/")[0], rows[0]["landmark"].split("/")[0]}:
        shutil.copytree(root / name, tmp_path / "data" / name, dirs_exist_ok=True)
    copy = shutil.copytree(bundle(), tmp_path / "bundle")
    told = []
    manifest = calibrate_labels(copy, sets, told.append)
    assert manifest == read_manifest(copy)
    assert len(told) == 2
    for found in manifest.calibration:
        assert found.samples == 12
        assert found.error <= found.error_before + 0.05
    assert manifest.temperature("emotion") != 1.0
    assert any("temperature" in line for line in _lines(manifest))
    analysis = Analyzer(copy, scores=True).analyze(Image.fromarray(astronaut), tasks=("labels",))
    assert analysis.score_calibration == "temperature"
    with pytest.raises(ExportError, match="expected a task"):
        _check_label_data([("age", "nowhere.json")])


def test_phrases_travel_in_the_manifest(bundle, scored, astronaut, tmp_path):
    """An export writes them; a bundle from before is scored with those of the embedded one, to the same numbers."""
    from trainer.synthetic.label_phrases import label_phrases

    assert read_manifest(bundle()).labels == read_manifest(EMBEDDED).labels == label_phrases()
    old = shutil.copytree(bundle(), tmp_path / "old")
    content = json.loads((old / MANIFEST).read_text(encoding="utf-8"))
    del content["labels"], content["digest"]
    (old / MANIFEST).write_text(with_digest(content), encoding="utf-8")
    analyses = [a.analyze(astronaut, color="rgb", tasks=("labels",)) for a in (scored, Analyzer(old, scores=True))]
    assert analyses[0].faces == analyses[1].faces

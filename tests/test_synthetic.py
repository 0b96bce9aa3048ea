"""Rendered sets: words that say what was drawn, files that depend on the seed alone, face models that are checked."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_up_head import SHAPES
from PIL import Image
from threadpoolctl import threadpool_info

from sdk.errors import DataError
from sdk.faba.answers import read_action_units, read_emotion
from sdk.faba.rege import official_action_units, official_emotion, paper_action_units, paper_emotion
from sdk.faba.rouge import rouge_l
from sdk.faba.vocabulary import EMOTIONS
from trainer.corpus.records import read_records
from trainer.synthetic.describe import describe_emotion, describe_units
from trainer.synthetic.expression import MIN_INTENSITY, UNITS, Expression, draw_emotion, draw_units
from trainer.synthetic.face_model import VERTICES, FaceModel, pack_face_model, read_face_model
from trainer.synthetic.preview import preview
from trainer.synthetic.rendered_face import render_face
from trainer.synthetic.synthesize import synthesize


def draw(seed: int) -> Expression:
    random = np.random.default_rng(seed)
    return draw_emotion(random) if seed % 2 else draw_units(random)


def files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_emotion_answers_say_what_was_drawn():
    """All three readings of an emotion answer, the official one included, find the emotion that was drawn."""
    for seed in range(4000):
        random = np.random.default_rng(seed)
        expression = draw_emotion(random)
        text = describe_emotion(expression, random)
        wanted = EMOTIONS.index(expression.emotion)
        read = official_emotion(text), paper_emotion(text), EMOTIONS.index(read_emotion(text).label)
        assert read == (wanted,) * 3, f"{expression.emotion}: {text}"


def test_unit_answers_list_what_was_drawn():
    """Every unit that is there is listed, no other is mentioned, and none under a negation."""
    for seed in range(4000):
        expression = draw(seed)
        text = describe_units(expression, np.random.default_rng(seed))
        present = {unit.code for unit in read_action_units(text) if unit.present}
        units = set(expression.units)
        assert official_action_units(text) == paper_action_units(text) == present == units, text


def test_wording_follows_the_face():
    """Two people with the same units at other intensities get answers with a mean ROUGE-L above 0.7 (goal: 0.6)."""
    scores: dict[str, list[float]] = {"emotion": [], "units": []}
    for seed in range(300):
        random = np.random.default_rng(seed)
        one = draw_emotion(random)
        two = Expression({code: random.uniform(MIN_INTENSITY, 1) for code in one.units}, {}, one.emotion)
        scores["emotion"].append(rouge_l(describe_emotion(one, random), describe_emotion(two, random)) or 0)
        scores["units"].append(rouge_l(describe_units(one, random), describe_units(two, random)) or 0)
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    assert min(means.values()) > 0.7, means
    assert (
        len({describe_emotion(draw_emotion(np.random.default_rng(s)), np.random.default_rng(s)) for s in range(300)})
        > 60
    )


def test_expressions_are_possible():
    """Intensities lie between the weakest that counts and 1; opposites do not meet; a dropped jaw parts the lips."""
    seen = set()
    for seed in range(3000):
        expression = draw(seed)
        units = expression.units.keys()
        seen |= units
        assert all(MIN_INTENSITY <= intensity <= 1 for intensity in expression.units.values()), expression
        assert not any(pair <= units for pair in ({12, 15}, {24, 25}, {5, 43}, {7, 43}, {26, 27})), expression
        assert 25 in units or not units & {16, 26, 27}, expression
        for code in units & {17, 23, 26, 27, 43}:
            assert expression.sides[code] == (1.0, 1.0), f"AU{code} has no sides, of AU43 a wink is none"
    assert seen == set(UNITS)


def test_a_face_is_rendered_by_one_thread(tmp_path, head, monkeypatch):
    """Each process has a core to itself: idle BLAS threads that spin halved the faces per second."""
    threads = set()

    def watched(*arguments):
        threads.update(library["num_threads"] for library in threadpool_info())
        return render_face(*arguments)

    monkeypatch.setattr("trainer.synthetic.synthesize.render_face", watched)
    synthesize(tmp_path / "set", 1, head, processes=1)
    assert threads == {1}


def test_same_seed_same_files(tmp_path, head):
    """One process and two write the same bytes; another seed writes others; nothing else is left in the folder."""
    for name, seed, processes in (("one/set", 3, 1), ("two/set", 3, 2), ("three/set", 4, 1)):
        (tmp_path / name).parent.mkdir()
        synthesize(tmp_path / name, 10, head, seed=seed, processes=processes)
    first, second, third = (files(tmp_path / name / "set") for name in ("one", "two", "three"))
    assert first == second
    assert first.keys() == third.keys()
    assert first != third
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["set"]


def test_a_complete_set_is_not_rendered_again(tmp_path, head, monkeypatch):
    """A run that was killed after its last file can be started again; other faces need another folder."""
    synthesize(tmp_path / "set", 2, head, seed=1, processes=1)
    before, reports = files(tmp_path / "set"), []
    monkeypatch.delattr("trainer.synthetic.synthesize.render_face")
    synthesize(tmp_path / "set", 2, head, seed=1, processes=1, report=reports.append)
    assert (files(tmp_path / "set"), reports) == (before, [2])
    same = {"count": 2, "seed": 1}
    for changes in ({"count": 3}, {"seed": 2}, {"split": "eval"}, {"portraits": True}):
        with pytest.raises(DataError, match="set is neither empty nor a folder with these faces; choose"):
            synthesize(tmp_path / "set", face_model=head, **(same | changes))
    assert files(tmp_path / "set") == before


def test_set_is_readable(tmp_path, head):
    """Every face has a readable record whose label is the metadata's, 224 pixels a side, and 106 finite landmarks."""
    synthesize(tmp_path / "set", 12, head, seed=1, split="eval", processes=1)
    about = [json.loads(line) for line in (tmp_path / "set/metadata.jsonl").read_text().splitlines()]
    units = read_records(tmp_path / "set/eval_au_anno.json", task="action_units")
    emotions = read_records(tmp_path / "set/eval_emotion_anno.json", task="emotion")
    assert [record.image_path.stem for record in units] == [face["id"] for face in about]
    assert len(emotions) == sum(face["emotion"] is not None for face in about)
    for face, record in zip(about, units, strict=True):
        assert sorted(map(int, face["units"])) == [int(code) for code in str(record.label).split(",") if code.strip()]
        assert {"tone", "age", "yaw", "pitch", "roll"} <= face.keys()
        assert 0 <= face["tone"] <= 9
        with Image.open(record.image_path) as picture:
            assert (picture.size, picture.mode) == ((224, 224), "RGB")
        points = np.load(tmp_path / f"set/landmarks/{face['id']}.npy")
        assert points.shape == (212,)
        assert np.isfinite(points).all()


def test_failure_leaves_nothing(tmp_path, head, monkeypatch):
    """An interrupted run and bad input leave no folder behind; a folder with content is not touched."""

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "set", 2, head, processes=1, report=interrupt)
    with pytest.raises(DataError, match="at least 1, not 0"):
        synthesize(tmp_path / "set", 0, head)
    with pytest.raises(DataError, match="expected the folder FaceXModel"):
        synthesize(tmp_path / "set", 2, tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="has no name"):
        synthesize(Path("."), 2, head)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "set").mkdir()
    (tmp_path / "set/mine.txt").write_text("x")
    with pytest.raises(DataError, match="neither empty nor a folder with these faces"):
        synthesize(tmp_path / "set", 2, head)
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["mine.txt"]


def write_obj(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices.tolist()]
    lines += ["f " + " ".join(f"{corner + 1}/1/1" for corner in face if corner >= 0) for face in faces.tolist()]
    path.write_text("\n".join(lines))


def test_folder_and_archive_are_the_same_head(tmp_path, head):
    """The OBJ files of ICT-FaceKit's own folder give what the repacked archive gives, within 1e-3 cm (float16)."""
    with np.load(head) as archive:
        neutral, faces = archive["neutral"], archive["faces"]
        write_obj(tmp_path / "generic_neutral_mesh.obj", neutral, faces)
        for index, moved in enumerate(archive["identity"]):
            write_obj(tmp_path / f"identity{index:03d}.obj", neutral + moved, faces[:1])
        for name, moved in zip(archive["expression_names"], archive["expression"], strict=True):
            write_obj(tmp_path / f"{name}.obj", neutral + moved, faces[:1])
        indices = {"idx_to_landmark_verts": archive["landmarks68"].tolist()}
        (tmp_path / "vertex_indices.json").write_text(json.dumps(indices))
    packed, unpacked = read_face_model(head), read_face_model(tmp_path)
    pack_face_model(tmp_path, tmp_path / "again.npz")
    with np.load(tmp_path / "again.npz") as again, np.load(head) as archive:
        assert again.keys() == archive.keys()
        assert again["expression"].dtype == archive["expression"].dtype
        for name in archive:
            if archive[name].dtype.kind != "U":
                np.testing.assert_allclose(again[name], archive[name], atol=2e-3)
    assert isinstance(unpacked, FaceModel)
    np.testing.assert_array_equal(packed.triangles, unpacked.triangles)
    np.testing.assert_array_equal(packed.landmarks68, unpacked.landmarks68)
    np.testing.assert_allclose(packed.identity, unpacked.identity, atol=1e-3)
    assert packed.expression.keys() == unpacked.expression.keys() == SHAPES.keys()
    for name, moved in packed.expression.items():
        np.testing.assert_allclose(moved, unpacked.expression[name], atol=1e-3)


def test_foreign_mesh_is_refused(tmp_path, head):
    """A mesh of another vertex count is named as such, with both counts."""
    with np.load(head) as archive:
        content = dict(archive)
    np.savez(tmp_path / "other.npz", **{**content, "neutral": content["neutral"][:-1]})
    with pytest.raises(DataError, match=rf"vertices: .*\({VERTICES}, 3\), found shape \({VERTICES - 1}, 3\)"):
        read_face_model(tmp_path / "other.npz")


def test_what_is_no_model_is_refused(tmp_path, head):
    """Other things, an archive cut short or damaged, an array, text, nothing, a mesh alone, no faces: each is named."""
    np.savez(tmp_path / "things.npz", a=1)
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    (tmp_path / "short.npz").write_bytes(head.read_bytes()[:5000])
    with np.load(head) as whole:
        np.savez_compressed(tmp_path / "damaged.npz", **whole)
        np.savez(tmp_path / "scalar.npz", **{**whole, "neutral": 0.0})
    content = bytearray((tmp_path / "damaged.npz").read_bytes())
    content[200:300] = bytes(100)
    (tmp_path / "damaged.npz").write_bytes(content)
    (tmp_path / "text.npz").write_text("no")
    (tmp_path / "empty.npz").touch()
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh/generic_neutral_mesh.obj").write_text("v 0 0 0")
    for path in tmp_path.iterdir():
        with pytest.raises(DataError, match=f"{path.name}: not ICT-FaceKit"):
            read_face_model(path)


def test_a_model_that_cannot_move_is_refused(tmp_path, head):
    """Without a blendshape, a mode, a landmark or a face of the mesh, labels would say what no picture shows."""
    with np.load(head) as whole:
        parts = dict(whole)
    kept = parts["expression_names"] != "mouthSmile_R"
    smileless = {"expression": parts["expression"][kept], "expression_names": parts["expression_names"][kept]}
    for changes, reason in (
        (smileless, "no blendshape mouthSmile"),
        ({"identity": parts["identity"][:49]}, r"identity modes: .* \(50, 26719, 3\), found shape \(49, "),
        ({"landmarks68": parts["landmarks68"][:67]}, r"landmarks: .* \(68,\), found shape \(67,\)"),
        ({"landmarks68": np.full(68, VERTICES)}, "beyond the 26719 vertices"),
        ({"expression": parts["expression"][:, :9]}, "blendshape browDown_L: .* found shape"),
        ({"faces": parts["faces"][:-1]}, r"faces: .* found shape \(26383, 4\)"),
        ({"neutral": np.full_like(parts["neutral"], np.nan)}, "vertices: expected finite"),
    ):
        np.savez(tmp_path / "part.npz", **{**parts, **changes})
        with pytest.raises(DataError, match=reason):
            read_face_model(tmp_path / "part.npz")


def test_preview_shows_every_face(tmp_path, head):
    """The sheet holds each face at its place, with a caption below; a folder without a set is refused."""
    synthesize(tmp_path / "set", 10, head, processes=1)
    preview(tmp_path / "set", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (2 * 186, 8 * 160, 3)
    with Image.open(tmp_path / "set/images/000009.jpg") as picture:
        face = np.asarray(picture.resize((160, 160), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pixels[186:346, 160:320], face)
    assert pixels[346:, 160:320].min() < 100, "no caption"
    assert pixels[186:, 320:].min() == 255, "something where there is no face"
    with pytest.raises(DataError, match=r"no metadata\.jsonl"):
        preview(tmp_path, tmp_path / "sheet.png")

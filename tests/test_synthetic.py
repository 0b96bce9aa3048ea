"""Rendered faces: words that say what was drawn, labels that the picture shows, files that depend on the seed alone."""

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_info

from sdk.errors import DataError
from sdk.faba.answers import read_action_units, read_emotion
from sdk.faba.rege import official_action_units, official_emotion, paper_action_units, paper_emotion, rouge_l
from sdk.faba.vocabulary import EMOTIONS
from trainer.corpus.records import read_records
from trainer.synthetic import rendered_face
from trainer.synthetic.describe import degree, describe_emotion, describe_units
from trainer.synthetic.expression import MIN_INTENSITY, UNITS, Expression, draw_emotion, draw_units
from trainer.synthetic.expression import SHAPES as UNIT_SHAPES
from trainer.synthetic.face_model import FACES, PARTS, VERTICES, FaceModel, read_face_model
from trainer.synthetic.preview import preview
from trainer.synthetic.raster import rasterise
from trainer.synthetic.rendered_face import FACE_SCALE, PARTED_LIPS, SHUT_EYES, as_visible, detected_crop
from trainer.synthetic.resting import at_rest, draw_rotation
from trainer.synthetic.scene import CLOSED_LIPS, Render, Studio, render
from trainer.synthetic.synthesize import synthesize, use_one_thread

REAL = Path(
    os.environ.get("EMOLA_FACE_MODEL", Path(__file__).parents[2] / "shared/face_model/ict_face_model_light.npz")
)
SHAPES = {
    **{f"{name}_{side}": (0.0, 0.0, 0.0) for shapes in UNIT_SHAPES.values() for name in shapes for side in "LR"},
    "jawOpen": (-3.0, -5.0, -2.0),
    **{f"mouthLowerDown_{side}": (-5.0, -4.0, -0.35) for side in "LR"},
    **{f"mouthUpperUp_{side}": (-3.4, -2.0, 0.35) for side in "LR"},
}  # name: lowest and highest point of the skin that moves, and by how much it moves up

EYE_CENTRE = np.array([3.1, 3.6, 7.9], np.float32)  # of the left


def draw(seed: int) -> Expression:
    random = np.random.default_rng(seed)
    return draw_emotion(random) if seed % 2 else draw_units(random)


def landmarks() -> np.ndarray:
    """(68, 2) where Multi-PIE's points lie on a face of the size of ICT-FaceKit's, in centimetres."""

    def arc(x: float, y: float, width: float, height: float, start: float, end: float, count: int) -> np.ndarray:
        angles = np.linspace(np.pi * start, np.pi * end, count)
        return np.stack([x + width * np.cos(angles), y + height * np.sin(angles)], axis=1)

    jaw, brow = arc(0, 3.5, 7.2, 11.0, 1, 2, 17), [arc(x, 5.4, 2.2, 0.8, 1, 0, 5) for x in (-3.5, 3.5)]
    nose = [np.stack([np.zeros(4), np.linspace(3.7, 0.4, 4)], axis=1), arc(0, -0.9, 1.5, 0.5, 1, 2, 5)]
    eyes = [arc(x, 3.4, 1.3, 0.6, 1, -2 / 3, 6) for x in (-3.1, 3.1)]
    lips = [arc(0, -3.4, 2.5, 0.9, 1, -5 / 6, 12), arc(0, -3.4, 2.0, 0.35, 1, -3 / 4, 8)]
    return np.concatenate([jaw, *brow, *nose, *eyes, *lips])


def ball(count: int) -> np.ndarray:
    """(count, 3) points spread over a sphere of 1.5 cm, the first in front, the last at the back."""
    z, turn = np.linspace(1, -1, count), np.pi * (1 + 5**0.5) * np.arange(count)
    across = np.sqrt(1 - z * z)
    return 1.5 * np.stack([across * np.cos(turn), across * np.sin(turn), z], axis=1)


def write_head(path: Path) -> Path:
    """A mask with ICT-FaceKit's vertices and parts, whose lips and jaw can move, and eyeballs behind it."""
    rows, columns = 148, 76
    y, x = (
        each.ravel() for each in np.meshgrid(np.linspace(14, -18, rows), np.linspace(-8, 8, columns), indexing="ij")
    )
    neutral = np.zeros((VERTICES, 3), np.float32)
    skin = slice(*PARTS["skin"])
    neutral[skin] = np.stack([x, y, 11 - 0.08 * x**2 - 0.01 * y**2], axis=1)
    for part, side in (("eye_left", 1), ("eye_right", -1)):
        neutral[slice(*PARTS[part])] = ball(PARTS[part][1] - PARTS[part][0]) + EYE_CENTRE * (side, 1, 1)
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    faces = np.full((FACES, 4), VERTICES - 1)  # the rest is of no part
    faces[: len(corner)] = np.stack([corner, corner + columns, corner + columns + 1, corner + 1], axis=1)
    names = sorted(SHAPES)
    expression = np.zeros((len(names), VERTICES, 3), np.float16)
    for name, moved in zip(names, expression, strict=True):
        low, high, up = SHAPES[name]
        moved[skin, 1] = up * ((y > min(low, high)) & (y < max(low, high)) & (np.abs(x) < 2.6))
    marks = landmarks()
    nearest = [int(np.hypot(x - mx, y - my).argmin()) for mx, my in marks]
    identity = np.zeros((50, VERTICES, 3), np.float16)
    identity[:, skin, 0] = 0.02 * x[None] * np.arange(50)[:, None] / 50
    np.savez(path, neutral=neutral, faces=faces.astype(np.int32), landmarks68=nearest, identity=identity,
             expression=expression, expression_names=names)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Path:
    return write_head(tmp_path_factory.mktemp("head") / "head.npz")


@pytest.fixture(scope="module")
def real_studio() -> Studio:
    if not REAL.exists():
        pytest.skip(f"no ICT-FaceKit at {REAL}: clone it and set EMOLA_FACE_MODEL")
    return Studio(read_face_model(REAL))


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


def test_rendering_processes_use_one_thread():
    """Each has a core to itself: idle BLAS threads that spin halved the faces per second."""
    with multiprocessing.get_context("spawn").Pool(1, initializer=use_one_thread) as pool:
        limits = [library["num_threads"] for library in pool.apply(threadpool_info)]
    assert set(limits) == {1}


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
    with pytest.raises(DataError, match="takes a name"):
        synthesize(Path("."), 2, head)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "set").mkdir()
    (tmp_path / "set/mine.txt").write_text("x")
    with pytest.raises(DataError, match="not an empty folder"):
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


def test_lips_part_when_they_should(real_studio):
    """On ICT-FaceKit: with AU25 every identity's lips part beyond the label's threshold; a mouth at rest closes."""
    for seed in range(40):
        random = np.random.default_rng(seed)
        apart = real_studio.shape({}, random, parted=True)
        closed = real_studio.shape({}, random, parted=False)
        assert real_studio.lip_gap(apart) > PARTED_LIPS
        assert real_studio.lip_gap(closed) <= CLOSED_LIPS + 1e-3


def test_units_move_what_they_are_named_after(real_studio):
    """On ICT-FaceKit: AU12 lifts the lip corners, AU15 lowers them, AU4 lowers the brows, AU43 closes the eyes."""
    marks = real_studio.model.landmarks68

    def heights(units: dict[int, float]) -> np.ndarray:
        weights = Expression(units, {}, None).weights()
        return real_studio.shape(weights, np.random.default_rng(0), parted=False)[marks, 1]

    rest, smile, frown, scowl, shut = map(heights, ({}, {12: 1.0}, {15: 1.0}, {4: 1.0}, {43: 1.0}))
    assert (smile - rest)[[48, 54]].min() > 0.5
    assert (frown - rest)[[48, 54]].max() < -0.3
    assert (scowl - rest)[[19, 20, 23, 24]].max() < -0.2
    assert (shut[[37, 44]] - shut[[41, 46]]).max() < 0.3 * (rest[[37, 44]] - rest[[41, 46]]).min()


@pytest.fixture(scope="module")
def picture(head) -> Render:
    return render(Studio(read_face_model(head)), Expression({}, {}, None), np.random.default_rng(0))


def test_labels_are_visible(picture):
    """No eye unit is labelled behind dark glasses; AU25 is labelled where the lips are apart, and only there."""
    expression, seen = Expression({4: 1.0, 7: 1.0, 25: 0.5}, {}, "anger"), []
    for hidden, gap in ((frozenset(), 0.5), (frozenset({5, 7, 43}), 0.5), (frozenset(), 0.05)):
        seen.append(set(as_visible(expression, replace(picture, hidden=hidden, lip_gap=gap)).units))
    assert seen == [{4, 7, 25}, {4, 25}, {4, 7}]


def test_parted_lips_are_as_strong_as_they_show(picture):
    """AU25 follows the gap whatever was drawn: lips just apart are slightly parted, wide open ones strongly."""
    for drawn in ({25: 0.9}, {25: 0.35}, {12: 0.5}):
        shown = [
            as_visible(Expression(drawn, {}, None), replace(picture, lip_gap=gap)).units[25] for gap in (0.2, 0.9, 2.5)
        ]
        assert [degree(intensity) for intensity in shown] == ["slightly", "clearly", "strongly"], shown


def test_closed_eyes_are_closed(picture):
    """AU43 is labelled where both eyes are shut and not where they are open; between, and behind glasses, as drawn."""
    dark = frozenset({5, 7, 43})
    for drawn, gap, hidden, closed in (
        ({6: 1.0}, 0.05, frozenset(), True),
        ({43: 1.0}, 0.05, frozenset(), True),
        ({43: 1.0}, 0.25, frozenset(), False),
        ({43: 1.0}, 0.15, frozenset(), True),
        ({6: 1.0}, 0.15, frozenset(), False),
        ({6: 1.0}, 0.05, dark, False),
        ({43: 1.0}, 0.05, dark, False),
    ):
        shown = as_visible(Expression(drawn, {}, None), replace(picture, lid_gap=gap, hidden=hidden)).units
        assert (43 in shown) == closed, (drawn, gap, hidden)
    shut = as_visible(Expression({7: 1.0}, {}, None), replace(picture, lid_gap=0.05)).units
    assert shut.keys() & {7, 43} == {43}, "lids that are shut are not tightened"


def test_resting_lids_leave_those_that_act_alone():
    """Lids that units raise, tighten, squeeze or close are not lowered further, by a glance down least of all."""
    lowest = {}
    for code in (1, 5, 6, 7, 9, 43):
        drawn = [at_rest(Expression({code: 1.0}, {}, "sadness"), np.random.default_rng(seed)) for seed in range(200)]
        lowest[code] = max(each.get("eyeLookDown_L", 0.0) for each in drawn)
        assert code == 1 or not any(name.startswith(("eyeBlink", "eyeSquint")) for each in drawn for name in each)
    assert lowest.pop(1) > 1
    assert max(lowest.values()) < 0.75, lowest


def test_eyes_look_where_their_lids_do(head):
    """Both eyeballs turn in place about their centres, by 26 degrees to a side and 23 up or down."""
    studio = Studio(read_face_model(head))
    right, left = {"eyeLookOut_L": 1.0, "eyeLookIn_R": 1.0}, {"eyeLookIn_L": 1.0, "eyeLookOut_R": 1.0}
    up, down = ({f"eyeLook{where}_{side}": 1.0 for side in "LR"} for where in ("Up", "Down"))
    for weights, x, y in ((right, 0.435, 0), (left, -0.435, 0), (up, 0, 0.389), (down, 0, -0.389), ({}, 0, 0)):
        vertices = studio.shape(weights, np.random.default_rng(0), parted=False)
        for part, side in (("eye_left", 1), ("eye_right", -1)):
            eyeball = vertices[slice(*PARTS[part])] - EYE_CENTRE * (side, 1, 1)
            front, back = eyeball[0] / 1.5, eyeball[-1] / 1.5
            np.testing.assert_allclose([*front[:2], *-back[:2]], [x, y, x, y], atol=0.01, err_msg=f"{part} {weights}")


def test_lids_part_and_meet(real_studio):
    """On ICT-FaceKit: the gap between the lids is open at rest, wider with AU5, and shut with AU43."""

    def gap(units: dict[int, float]) -> float:
        weights = Expression(units, {}, None).weights()
        return real_studio.lid_gap(real_studio.shape(weights, np.random.default_rng(0), parted=False))

    rest, wide, shut = gap({}), gap({5: 1.0}), gap({43: 1.0})
    assert wide > rest + 0.1 > 0.5
    assert shut < SHUT_EYES


def test_angles_have_the_signs_that_are_documented():
    """Positive yaw faces the right of the picture, pitch up, and roll leans the head anticlockwise."""
    nose, crown = (0, 0, 1), (0, 1, 0)
    for angles, axis, moved in (
        ((20.0, 0.0, 0.0), nose, (0.342, 0, 0.940)),
        ((0.0, 20.0, 0.0), nose, (0, 0.342, 0.940)),
        ((0.0, 0.0, 20.0), crown, (-0.342, 0.940, 0)),
    ):
        rotation, said = draw_rotation(SimpleNamespace(normal=lambda *_, angles=angles: angles))
        assert said == angles
        np.testing.assert_allclose(rotation @ axis, moved, atol=1e-3)


def test_points_are_where_the_picture_shows_them(head, monkeypatch):
    """On average to a tenth of a pixel, also where the crop would leave the picture and is moved.

    A picture whose colours are coordinates says so: pixel 100 has colour 100, and so has a vertex drawn at 100.
    """
    studio, drawn = Studio(read_face_model(head)), []
    assert studio.size == 256
    line = np.arange(256)
    colours = np.stack([*np.meshgrid(line, line), np.zeros((studio.size, studio.size))], axis=2).astype(np.uint8)

    def coloured(*args):
        drawn.append(replace(render(*args), image=colours))
        return drawn[-1]

    monkeypatch.setattr(rendered_face, "render", coloured)
    monkeypatch.setattr(rendered_face, "_photograph", lambda crop, random: np.asarray(crop))
    for box in ((20.0, 30.0, 200.0), (-30.0, -20.0, 220.0), (90.0, 60.0, 250.0)):
        monkeypatch.setattr(rendered_face, "detected_crop", lambda picture, random, box=box: box)
        made = rendered_face.render_face(studio, np.random.default_rng(0))
        places = (made.landmarks.reshape(-1, 2) + 1) / 2 * rendered_face.SIDE - 0.5
        inside = ((places >= 2) & (places < rendered_face.SIDE - 3)).all(axis=1)
        low = np.floor(places[inside]).astype(int)
        near, (x, y) = places[inside] - low, low.T
        across = made.image[y, x, 0] * (1 - near[:, 0]) + made.image[y, x + 1, 0] * near[:, 0]
        down = made.image[y, x, 1] * (1 - near[:, 1]) + made.image[y + 1, x, 1] * near[:, 1]
        off = np.stack([across, down], axis=1) - drawn[-1].points[inside]
        assert inside.sum() > 10
        assert np.abs(off).max() < 1.2, off
        assert np.abs(off.mean(axis=0)).max() < 0.1, off.mean(axis=0)


def test_pictures_show_vertices_where_they_are():
    """A square drawn from 90 to 110 covers pixels 90 to 110: a pixel's coordinate is that of its centre."""
    corners = np.array([[90, 90, 1], [110, 90, 1], [110, 110, 1], [90, 110, 1]], np.float32)
    seen, _ = rasterise(corners, np.array([[0, 2, 1], [0, 3, 2]], np.int32), 256)
    rows, columns = np.nonzero(seen >= 0)
    assert abs(rows.mean() - 100) < 0.01
    assert abs(columns.mean() - 100) < 0.01


def test_crops_are_as_measured(picture):
    """The crop's mean size and place are those that `detected_crop` says were measured with dlib, to three digits."""
    marks, random = picture.landmarks68, np.random.default_rng(0)
    extent = np.sqrt(np.prod(np.ptp(marks, axis=0)))
    crops = np.array([detected_crop(picture, random) for _ in range(10000)])
    sides = crops[:, 2] / FACE_SCALE
    places = (crops[:, :2] + crops[:, 2:] / 2 - marks.mean(axis=0)) / sides[:, None]
    assert abs(np.exp(np.log(sides).mean()) / extent - 1.11) < 0.005
    assert np.abs(places.mean(axis=0) - (0, -0.048)).max() < 0.0013, places.mean(axis=0)


def test_crop_is_the_detectors(real_studio):
    """On ICT-FaceKit: the mean crops of 24 renders are in the median within 8 % of dlib's side, 3 % of its place."""
    pytest.importorskip("dlib")
    from sdk.faces.detect import DlibDetector

    off = []
    for seed in range(24):
        random = np.random.default_rng((7, seed))
        picture = render(real_studio, draw_emotion(random), random)
        found = DlibDetector().detect(np.pad(picture.image, ((40, 40), (40, 40), (0, 0)), mode="edge"))
        if found:
            left, top, right, bottom = np.array(found[0].box_xyxy) - 40
            x, y, side = np.mean([detected_crop(picture, np.random.default_rng(draw)) for draw in range(25)], axis=0)
            offset = np.array([x + side / 2 - (left + right) / 2, y + side / 2 - (top + bottom) / 2]) / side
            off.append([side / FACE_SCALE / (right - left), *offset])
    ratio, across, down = np.median(off, axis=0)
    assert len(off) > 14
    assert abs(ratio - 1) < 0.08, f"crops are {ratio:.3f} of dlib's"
    assert max(abs(across), abs(down)) < 0.03, (across, down)

"""Portraits: calm faces whose low brows are no AU4, and expressions that are clear."""

from pathlib import Path

import numpy as np

from trainer.synthetic.expression import Expression
from trainer.synthetic.face_model import read_face_model
from trainer.synthetic.portraits import draw_portrait, portrait_skin, rest_as_portrait
from trainer.synthetic.rendered_face import render_face
from trainer.synthetic.resting import at_rest
from trainer.synthetic.scene import Studio
from trainer.synthetic.skin import draw_skin
from trainer.synthetic.synthesize import synthesize


def test_half_of_the_portraits_are_neutral_and_frowns_are_clear():
    drawn = [draw_portrait(np.random.default_rng(seed)) for seed in range(2000)]
    assert 0.46 < np.mean([each.emotion == "neutral" for each in drawn]) < 0.54
    frowns = [each.units[4] for each in drawn if 4 in each.units]
    assert len(frowns) > 300
    assert min(frowns) >= 0.55
    assert {each.emotion for each in drawn} == {
        "happiness", "sadness", "surprise", "anger", "neutral", "disgust", "fear"
    }  # fmt: skip


def test_brows_rest_lower_than_in_other_renders(real_studio):
    """On ICT-FaceKit: by 1 to 5 mm in the mean over people, at the same distance from each other; AU4 draws them in."""
    marks, at = real_studio.model.landmarks68, Expression({}, {}, "neutral")

    def brows(expression: Expression, portrait: bool) -> np.ndarray:
        heights = []
        for seed in range(40):
            weights = at_rest(at, np.random.default_rng(seed))
            if portrait:
                rest_as_portrait(weights, expression, np.random.default_rng(seed))
            weights |= expression.weights()
            face = real_studio.shape(weights, np.random.default_rng(seed), parted=False)[marks]
            heights.append((face[17:27, 1].mean() - face[36:48, 1].mean(), face[22, 0] - face[21, 0]))
        return np.mean(heights, axis=0)

    (others, apart), (calm, still_apart) = (brows(at, portrait) for portrait in (False, True))
    _, drawn_in = brows(Expression({4: 0.55}, {}, "anger"), True)
    assert 0.1 < others - calm < 0.5
    assert abs(apart - still_apart) < 0.1
    assert still_apart - drawn_in > 0.15


def test_skin_of_portraits(head):
    """Beards are more frequent, and people with lipstick get none."""
    pairs = []
    for seed in range(1000):
        random = np.random.default_rng(seed)
        skin = draw_skin(random)
        pairs.append((skin, portrait_skin(skin, random)))
    before, after = (np.mean([pair[side].beard > 0 for pair in pairs]) for side in (0, 1))
    assert after > before + 0.08
    assert not any(new.beard and new.lip_strength and not old.beard for old, new in pairs)


def test_option_changes_the_faces_and_nothing_else(tmp_path: Path, head):
    """The same seed gives other faces; the set is read like any other, and is the same for two processes."""
    studio = Studio(read_face_model(head))
    plain, portrait = (render_face(studio, np.random.default_rng(0), each) for each in (False, True))
    assert plain.image != portrait.image
    for name, processes in (("one/set", 1), ("two/set", 2)):
        (tmp_path / name).parent.mkdir()
        synthesize(tmp_path / name, 4, head, seed=4, portraits=True, processes=processes)
    one, two = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "one/set", tmp_path / "two/set")
    )
    assert one == two
    assert Path("train_emotion_anno.json") in one

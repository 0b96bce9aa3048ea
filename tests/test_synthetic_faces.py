"""Rendered faces: labels that the picture shows, points and crops that are where they are said to be."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_head import EYE_CENTRE

from trainer.synthetic import rendered_face
from trainer.synthetic.describe import degree
from trainer.synthetic.expression import Expression, draw_emotion, draw_units
from trainer.synthetic.face_model import PARTS, read_face_model
from trainer.synthetic.raster import rasterise
from trainer.synthetic.rendered_face import FACE_SCALE, PARTED_LIPS, SHUT_EYES, as_visible, detected_crop
from trainer.synthetic.resting import at_rest, head_rotation
from trainer.synthetic.scene import CLOSED_LIPS, Render, Studio, render


def draw(seed: int) -> Expression:
    random = np.random.default_rng(seed)
    return draw_emotion(random) if seed % 2 else draw_units(random)


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
        np.testing.assert_allclose(head_rotation(*angles) @ axis, moved, atol=1e-3)


def test_points_are_where_the_picture_shows_them(head, monkeypatch):
    """On average to a tenth of a pixel, also where the crop would leave the picture and is moved.

    A picture whose colours are coordinates says so: pixel 100 has colour 100, and so has a vertex drawn at 100.
    """
    studio, drawn = Studio(read_face_model(head)), []
    assert studio.size == 256
    line = np.arange(256)
    colours = np.stack([*np.meshgrid(line, line), np.zeros((studio.size, studio.size))], axis=2).astype(np.uint8)

    def coloured(*args, **options):
        drawn.append(replace(render(*args, **options), image=colours))
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

"""The pose of heads whose pose is known: projected, rendered, and photographed; and how far their eyes are open."""

import numpy as np
import pytest

from sdk import Analyzer
from sdk.faces.pose import INSIGHTFACE, MULTI_PIE, eye_openness, head_pose, landmark_scheme
from sdk.faces.preprocess import Preprocessing
from trainer.synthetic.resting import at_rest, head_rotation, project

POSES = [
    (0.0, 0.0, 0.0),
    (30.0, 0.0, 0.0),
    (0.0, 20.0, 0.0),
    (0.0, 0.0, 30.0),
    (-25.0, 15.0, -20.0),
    (35.0, -20.0, 10.0),
]


def rotation_of(angles):
    return head_rotation(*angles)


def solved_by_opencv(points, head, focal=1000.0):
    """Yaw, pitch, roll by OpenCV's solver for the pose of known points, with the signs of `Face.head_pose`."""
    cv2 = pytest.importorskip("cv2")
    camera = np.array([[focal, 0, 0], [0, focal, 0], [0, 0, 1]])
    _, turned, _ = cv2.solvePnP(head * [1, -1, -1], points, camera, None, flags=cv2.SOLVEPNP_SQPNP)
    flip = np.diag([1.0, -1.0, -1.0])
    rotation = flip @ cv2.Rodrigues(turned)[0] @ flip
    return np.degrees(
        [
            np.arctan2(-rotation[2, 0], rotation[2, 2]),
            np.arcsin(-rotation[2, 1]),
            np.arctan2(-rotation[0, 1], rotation[1, 1]),
        ]
    )


@pytest.mark.parametrize("scheme", [MULTI_PIE, INSIGHTFACE], ids=["Multi-PIE", "insightface"])
@pytest.mark.parametrize("angles", POSES)
def test_a_projected_head_is_turned_back(scheme, angles):
    """The mean head a metre away: within 3 degrees of its pose and of OpenCV's answer, at any place and size."""
    from sdk.faces.pose import _HEAD

    head = _HEAD - _HEAD.mean(axis=0)
    posed = head @ rotation_of(angles).T
    seen = 1000 * np.column_stack([posed[:, 0], -posed[:, 1]]) / (100 - posed[:, 2])[:, None]
    points = np.full((106, 2), 1e3)
    points[list(scheme.head)] = 7 * seen + 300
    found = head_pose(points, scheme)
    assert np.abs(np.subtract(found, angles)).max() < 3, found
    assert np.abs(solved_by_opencv(seen, head) - found).max() < 3


def test_heads_of_other_people(real_studio):
    """On ICT-FaceKit: 60 persons with expressions, seen from 40 to 250 cm; the mean error is below 4, 5 and 1.5."""
    from trainer.synthetic.expression import draw_emotion

    errors = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        expression = draw_emotion(random)
        shape = real_studio.shape({**at_rest(expression, random), **expression.weights()}, random, parted=False)
        angles = random.normal(0, (16.0, 9.5, 11.0)).clip((-42, -26, -32), (42, 26, 32)).tolist()
        points = project((shape @ head_rotation(*angles).T).astype(np.float32), 256, 142, random)[
            real_studio.points106, :2
        ]
        errors.append(np.subtract(head_pose(points, MULTI_PIE), angles))
    means = np.abs(errors).mean(axis=0)
    assert (means < (4, 5, 1.5)).all(), means


def test_lids_that_close(real_studio):
    """On ICT-FaceKit: wide eyes are more open than resting ones, shut ones are not; a wink is of one eye."""
    from trainer.synthetic.expression import Expression

    def openness(weights):
        shape = real_studio.shape(weights, np.random.default_rng(0), parted=False)
        points = np.zeros((106, 2), np.float32)
        points[:68] = shape[real_studio.model.landmarks68, :2] * (1, -1)
        return np.array(eye_openness(points, MULTI_PIE))

    rest, wide, shut = (openness(Expression(units, {}, None).weights()) for units in ({}, {5: 1.0}, {43: 1.0}))
    assert (wide > rest + 0.05).all()
    assert (shut < 0.12).all()
    assert (rest > 0.2).all()
    left, right = openness({"eyeBlink_R": 1.0})  # the person's right eye is at the left of the picture
    assert left < 0.12 < right


def test_a_photograph_and_its_mirror():
    """The model in the package on a portrait: a mirror negates yaw and roll and swaps the eyes; 12 degrees are 12."""
    from PIL import Image, ImageOps

    from sdk.commands.demo import PICTURES

    with Analyzer(max_faces=1) as analyzer, Image.open(PICTURES / "astronaut.jpg") as photo:
        views = [photo, ImageOps.mirror(photo), photo.rotate(12, Image.Resampling.BICUBIC)]
        (plain,), (mirrored,), (turned,) = (analyzer.analyze(view, tasks=()).faces for view in views)
    pose, other, rolled = plain.head_pose, mirrored.head_pose, turned.head_pose
    assert max(abs(pose.yaw), abs(pose.pitch)) < 20, "she looks at the camera"
    assert abs(pose.yaw + other.yaw) < 6
    assert abs(pose.roll + other.roll) < 3
    assert rolled.roll - pose.roll == pytest.approx(12, abs=3)
    assert min(plain.eye_openness) > 0.15
    assert plain.eye_openness == pytest.approx(mirrored.eye_openness[::-1], abs=0.08)


def test_no_pose_without_points():
    """Points in one place have none; landmarks that are no coordinates, or of another order, have no scheme."""
    nowhere = np.zeros((106, 2), np.float32)
    assert head_pose(nowhere, MULTI_PIE) is None
    assert eye_openness(nowhere, INSIGHTFACE) is None
    for broken in (np.nan, np.inf):
        assert head_pose(nowhere + broken, MULTI_PIE) is None
        assert eye_openness(nowhere + broken, MULTI_PIE) is None
    given = {
        **{"face_scale": 1.5, "image_size": 112, "image_mean": (0.5,) * 3, "image_std": (0.5,) * 3},
        "landmark_mode": "insightface",
    }
    plain = Preprocessing(image_aspect="pad", **given)
    assert landmark_scheme(plain) is INSIGHTFACE
    assert landmark_scheme(plain.model_copy(update={"landmark_mode": "emola"})) is None
    for corners, scheme in (((36, 39, 42, 45), MULTI_PIE), ((1, 2, 3, 4), None)):
        anchors = tuple((index, 0.1 * index, 0.0) for index in corners)
        assert landmark_scheme(Preprocessing(image_aspect="align", anchors=anchors, **given)) is scheme

"""Ids that stay with the face, and the measure of change."""

import numpy as np
import pytest

from sdk.faces.track import Tracker, appearance, motion, overlap


def face(seed, size=120):
    """A picture unlike those of other seeds."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.repeat(np.repeat(coarse, size // 6, 0), size // 6, 1)


def box(x, y=0.0, side=100.0):
    return (x, y, x + side, y + side)


def ids(tracks):
    return [track.id for track in tracks]


A, B, C = (appearance(face(seed)) for seed in range(3))


def test_faces_that_swap_places_keep_their_ids():
    tracker = Tracker()
    assert ids(tracker.update([box(0), box(300)], [A, B], 0.0)) == [0, 1]
    assert ids(tracker.update([box(0), box(300)], [B, A], 0.04)) == [1, 0]


def test_a_moving_face_keeps_its_id_and_a_stranger_gets_a_new_one():
    """Step by step across the picture, a jump with the same appearance, and another face at its place."""
    tracker = Tracker()
    for step in range(10):
        assert ids(tracker.update([box(30.0 * step)], [A], step / 25)) == [0]
    assert ids(tracker.update([box(900)], [A], 0.5)) == [0]
    assert ids(tracker.update([box(900)], [C], 0.54)) == [1]


def test_patience():
    """Away for a second: the same id. Away for longer than the patience: a new one; ids are never used twice."""
    tracker = Tracker(patience_s=2.0)
    tracker.update([box(0)], [A], 0.0)
    tracker.update([], [], 0.5)
    assert ids(tracker.update([box(0)], [A], 1.0)) == [0]
    assert ids(tracker.update([box(0)], [A], 3.5)) == [1]
    assert ids(tracker.alive(5.0)) == [1]
    assert tracker.alive(6.0) == []


def test_two_faces_never_share_a_track():
    tracker = Tracker()
    tracker.update([box(0)], [A], 0.0)
    assert sorted(ids(tracker.update([box(0), box(5)], [A, A], 0.04))) == [0, 1]


def test_appearance_does_not_depend_on_size_and_hardly_on_noise():
    noisy = np.clip(face(0, 240) + np.random.default_rng(1).normal(0, 8, (240, 240, 3)), 0, 255).astype(np.uint8)
    assert float(A @ appearance(noisy)) > 0.99
    assert float(A @ B) < 0.5
    assert np.isfinite(appearance(np.zeros((9, 9, 3), np.uint8))).all()


def test_motion_is_of_the_shape_not_of_the_place():
    """Shift and size of all points cost nothing; a mouth corner that moves by a tenth of the face does."""
    points = np.random.default_rng(0).uniform(-1, 1, (106, 2)).astype(np.float32)
    assert motion((0.8 * points + 0.3).ravel(), points.ravel()) < 1e-5
    smiling = points.copy()
    smiling[:20, 1] -= 0.2
    assert motion(smiling.ravel(), points.ravel()) > 0.03


@pytest.mark.parametrize(("b", "expected"), [(box(0), 1.0), (box(50), 1 / 3), (box(100), 0.0), (box(500), 0.0)])
def test_overlap(b, expected):
    assert overlap(box(0), b) == pytest.approx(expected)

"""A timeline shows what was seen, when it was seen."""

import numpy as np
import pytest
from test_tables import analysis

from sdk.faba.answers import action_unit
from sdk.render import face_colour
from sdk.results import FrameInfo
from sdk.timeline import Timeline

pytest.importorskip("matplotlib")
from matplotlib.colors import to_hex


def test_nothing_is_drawn_while_a_face_is_away(tmp_path):
    """Four frames, 4.7 s without the face, two frames: one empty column between 0.4 and 5 s, six spans of 0.1 s."""
    timeline = Timeline(tmp_path / "a.png")
    for index, time_s in enumerate((0, 0.1, 0.2, 0.3, 5.0, 5.1)):
        timeline.add(analysis(1, frame=FrameInfo(index=index, time_s=time_s, dropped=0)))
    units, emotion = timeline.draw().axes[1].collections
    empty = np.ma.getmaskarray(units.get_array()).all(axis=0)
    assert empty.tolist() == [False] * 4 + [True] + [False] * 2
    widths = [path.get_extents().width for path in emotion.get_paths()]
    assert widths == pytest.approx([0.1] * 6)


def test_a_face_that_comes_seldom_is_not_drawn_between(tmp_path):
    """Ten frames, a face in the first and in the last: two spans of one frame each."""
    timeline = Timeline(tmp_path / "a.png")
    for index in range(10):
        frame = FrameInfo(index=index, time_s=0.5 * index, dropped=0)
        timeline.add(analysis(int(index in (0, 9)), frame=frame))
    _, emotion = timeline.draw().axes[1].collections
    extents = [path.get_extents() for path in emotion.get_paths()]
    assert [(extent.x0, extent.width) for extent in extents] == [(0, 0.5), (4.5, 0.5)]


def test_rows_are_the_units_that_were_seen(tmp_path):
    """AU6 in the first frame, AU1 in the second: two rows below the emotions, AU1 on top, in the colour of the face."""
    timeline = Timeline(tmp_path / "a.png")
    for index, code in enumerate((6, 1)):
        face = analysis(1).faces[0].model_copy(update={"id": 2, "action_units": (action_unit(code, True),)})
        timeline.add(analysis(faces=(face,), frame=FrameInfo(index=index, time_s=index, dropped=0)))
    thumbnail, panel = timeline.draw().axes
    names = {label.get_text(): place for place, label in zip(panel.get_yticks(), panel.get_yticklabels(), strict=True)}
    assert set(names) == {"emotion", "AU1", "AU6"}
    low, high = panel.get_ylim()
    assert low > names["AU6"] > names["AU1"] > names["emotion"] > high, "the axis points down"
    mesh, band = panel.collections
    assert mesh.get_array().tolist() == [[0, 1], [1, 0]]
    assert to_hex(mesh.cmap(1.0)) == face_colour(2) == to_hex(thumbnail.title.get_color())
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["happiness"]
    assert band.get_paths()[0].get_extents().height > 1


def test_the_largest_view_is_the_thumbnail(tmp_path):
    """A face that comes closer: its picture is from the frame in which its box is largest."""
    timeline = Timeline(tmp_path / "a.png")
    for index, (side, grey) in enumerate(((20, 10), (60, 200), (30, 90))):
        face = analysis(1).faces[0].model_copy(update={"box_xyxy": (10.0, 10.0, 10.0 + side, 10.0 + side)})
        timeline.add(
            analysis(faces=(face,), frame=FrameInfo(index=index, time_s=index, dropped=0)),
            np.full((100, 100, 3), grey, np.uint8),
        )
    (picture,) = timeline.draw().axes[0].images
    assert picture.get_array().shape == (96, 96, 3)
    assert np.unique(picture.get_array()).tolist() == [200]


def test_without_answers_the_band_says_when_a_face_was_seen(tmp_path):
    timeline = Timeline(tmp_path / "a.png")
    face = analysis(1).faces[0].model_copy(update={"emotion": None, "action_units": None})
    timeline.add(analysis(faces=(face,), frame=FrameInfo(index=0, time_s=0, dropped=0)))
    panel = timeline.draw().axes[1]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["seen"]
    assert len(panel.collections) == 1
    assert panel.get_legend() is None


def test_an_error_before_the_first_face_leaves_the_old_picture(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    with pytest.raises(KeyboardInterrupt), Timeline(path):
        raise KeyboardInterrupt
    assert path.read_bytes() == b"precious"

"""A timeline shows what was seen, when it was seen."""

import numpy as np
import pytest
from test_tables import analysis

from sdk.results import FrameInfo
from sdk.timeline import Timeline

pytest.importorskip("matplotlib")


def test_nothing_is_drawn_while_a_face_is_away(tmp_path):
    """Four frames, 4.7 s without the face, two frames: one empty column between 0.4 and 5 s, six spans of 0.1 s."""
    timeline = Timeline(tmp_path / "a.png")
    for index, time_s in enumerate((0, 0.1, 0.2, 0.3, 5.0, 5.1)):
        timeline.add(analysis(1, frame=FrameInfo(index=index, time_s=time_s, dropped=0)))
    units, emotion = timeline.draw().axes[0].collections
    empty = np.ma.getmaskarray(units.get_array()).all(axis=0)
    assert empty.tolist() == [False] * 4 + [True] + [False] * 2
    widths = [path.get_extents().width for path in emotion.get_paths()]
    assert widths == pytest.approx([0.1] * 6)


def test_an_error_before_the_first_face_leaves_the_old_picture(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    with pytest.raises(KeyboardInterrupt), Timeline(path):
        raise KeyboardInterrupt
    assert path.read_bytes() == b"precious"

"""An analysis shows itself: a summary, a picture and a table in a notebook, a drawing of what was kept."""

import base64
import pickle
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from test_tables import analysis

from sdk import Analysis, Analyzer
from sdk.errors import ImageError
from sdk.results import FrameInfo

PICTURE = np.full((100, 200, 3), 60, np.uint8)


@pytest.fixture(scope="module")
def analyzer():
    pytest.importorskip("onnxruntime")
    with Analyzer(keep_image=True) as analyzer:
        yield analyzer


class Page(HTMLParser):
    """The text of a page, its pictures, and tags that were opened and not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.pictures, self.open = "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.pictures.append(dict(attrs)["src"])
        else:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data + " "


def test_print_gives_a_few_lines():
    lines = str(analysis(2, warnings=("careful \x1b[2J",))).splitlines()
    assert lines[0] == "a.png  (200 x 100, 2 faces, tiny on ort-float32)"
    assert lines[1].split() == ["face", "0", "happiness", "AU6", "AU12", "AU45"]
    assert len(lines) == 4
    assert "\x1b" not in lines[3], "a model's words must not steer the terminal"
    crowd = str(analysis(30)).splitlines()
    assert (len(crowd), crowd[-1]) == (10, "  and 22 more")
    assert "no face" in str(analysis(0))


def test_a_notebook_shows_picture_and_table():
    """Without the picture the table is there, and words that say how to see it; words of a model are no markup."""
    whole = analysis(2, source="<b>.png")
    bare, page = Page(whole._repr_html_()), Page(whole.with_picture(PICTURE)._repr_html_())
    for each in (bare, page):
        assert not each.open
        assert each.words.count("happiness") == 2
        assert "AU6 Cheek Raiser, AU12 Lip Corner Puller" in each.words
        assert "<b>.png" in each.words
    assert "keep_image=True" in bare.words
    assert not bare.pictures
    kind, data = page.pictures[0].split(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (200, 100)
        assert np.asarray(picture).std() > 5, "the boxes are drawn"
    assert "No face was found" in Page(analysis(0).with_picture(PICTURE)._repr_html_()).words


def test_a_drawing_says_what_it_lacks(tmp_path):
    """Bytes, arrays, PIL images, frames and files that are gone: one error that names both ways out."""
    sources = [{"source": name} for name in ("bytes", "array", "PIL image", str(tmp_path / "gone.png"))]
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"x")
    for changes in (*sources, {"source": str(clip), "frame": FrameInfo(index=7, time_s=0.3, dropped=0)}):
        with pytest.raises(
            ImageError, match=r"pass it, plot\(picture\), or open Analyzer\(keep_image=True\)"
        ) as caught:
            analysis(1, **changes).plot()
        assert changes["source"] in str(caught.value)
    assert "frame 7 of" in str(caught.value)
    assert analysis(1, source="bytes").plot(PICTURE).size == analysis(1).with_picture(PICTURE).plot().size


def test_a_kept_picture_is_no_part_of_the_record():
    """Equality, JSON, copies and pickles are as without it; the copy and the pickle still draw."""
    plain, kept = analysis(1), analysis(1).with_picture(PICTURE)
    assert plain == kept == analysis(1).with_picture(PICTURE[:50])
    assert plain.to_json() == kept.to_json()
    assert Analysis.model_validate_json(kept.to_json()) == kept
    for other in (kept.model_copy(update={"warnings": ("x",)}), pickle.loads(pickle.dumps(kept))):
        assert other.plot().size == kept.plot().size
    with pytest.raises(ImageError):
        plain.plot()


def test_an_analyzer_keeps_what_it_read(analyzer):
    """The upright pixels in RGB, of one picture and of each in a batch; a picture that fails has none."""
    crop = np.random.default_rng(0).integers(0, 255, (120, 100, 3), np.uint8)
    options = {"tasks": (), "faces": "aligned", "color": "bgr"}
    one = analyzer.analyze(crop, **options)
    batch = analyzer.analyze_batch([crop, b"broken"], keep_going=True, **options)
    for each in (one, batch[0]):
        np.testing.assert_array_equal(each._picture(), crop[:, :, ::-1])
        assert each.plot().width > 100
    with pytest.raises(ImageError):
        batch[1].plot()


def test_a_frame_is_kept_too(analyzer, tmp_path):
    av = pytest.importorskip("av")
    assert av
    from clips import write_clip

    clip = write_clip(tmp_path / "a.mp4", [np.full((64, 64, 3), 90, np.uint8)] * 2)
    for pixels, each in analyzer.watch(clip, tasks=()):
        assert each._picture() is pixels
        assert each.plot().width > 64

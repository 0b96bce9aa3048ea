"""Several faces at once: the tokens of one-by-one, in the order of the pictures, whatever is broken among them."""

import gc
import io
import weakref
from threading import Event

import numpy as np
import pytest
from PIL import Image

from sdk import Analyzer
from sdk.batch import pictures_in
from sdk.errors import BackendError, CancelledError, ImageError, TaskError
from sdk.runtime.backends.ort_pool import OrtPool
from sdk.runtime.memory import Memory


@pytest.fixture(scope="module")
def analyzer(bundle):
    """The golden bundle with every 40th token an end mark, so that answers differ in length."""
    analyzer = Analyzer(bundle())
    prompt = analyzer.manifest.prompt.model_copy(update={"stop_ids": tuple(range(2, 700, 40))})
    analyzer.pipeline.manifest = analyzer.manifest.model_copy(update={"prompt": prompt})
    return analyzer


@pytest.fixture(scope="module")
def eight(t1, astronaut):
    """Three pictures, eight faces: six, one and one."""
    return [Image.fromarray(picture) for picture in (t1, astronaut, np.ascontiguousarray(astronaut[:, ::-1]))]


def tokens_of(analyzer, monkeypatch, run):
    """Token ids of every answer of every face that `run` analyses, and the analyses."""
    seen, original = [], analyzer.examiner.face

    def face(index, crop, score, reading, request, age_ms=None):
        seen.append({task: answer.token_ids for task, answer in reading.answers.items()})
        return original(index, crop, score, reading, request, age_ms)

    with monkeypatch.context() as patch:
        patch.setattr(analyzer.examiner, "face", face)
        return run(), seen


@pytest.mark.parametrize("slots", [1, 3, 8, 64])
def test_a_batch_of_eight_equals_eight_single_runs(analyzer, eight, monkeypatch, slots):
    """float32, both tasks: every token equal, though answers end at different steps and faces change slots."""
    limit = 120
    single, expected = tokens_of(
        analyzer, monkeypatch, lambda: [analyzer.analyze(picture, max_new_tokens=limit) for picture in eight]
    )
    batch, found = tokens_of(
        analyzer, monkeypatch, lambda: analyzer.analyze_batch(eight, max_new_tokens=limit, batch_size=slots)
    )
    assert len(expected) == 8
    assert len({len(tokens) for answers in expected for tokens in answers.values()}) > 2, "lengths should differ"
    assert found == expected
    assert [analysis.faces for analysis in batch] == [analysis.faces for analysis in single]
    assert {analysis.status for analysis in batch} <= {"ok", "truncated"}


def test_int4_batches_agree_too(bundle, eight):
    """int4 with 8-bit activations, 40 tokens: the same words."""
    analyzer = Analyzer(bundle("trained", "int4"))
    single = [analyzer.analyze(picture, max_new_tokens=40).faces for picture in eight]
    assert [analysis.faces for analysis in analyzer.analyze_batch(eight, max_new_tokens=40)] == single


def test_label_scores_in_a_batch(bundle, eight):
    analyzer = Analyzer(bundle())
    single = [analyzer.analyze(picture, tasks=("labels",)).faces for picture in eight]
    batch = [analysis.faces for analysis in analyzer.analyze_batch(eight, tasks=("labels",), batch_size=4)]
    assert batch == single


def test_results_come_as_they_are_ready_and_in_order(analyzer, astronaut):
    """With one slot the first analysis is there before the second picture is opened."""
    opened = []

    def pictures():
        for index in range(3):
            opened.append(index)
            yield Image.fromarray(astronaut)

    analyses = analyzer.iterate_batch(pictures(), tasks=("emotion",), max_new_tokens=3, batch_size=1)
    next(analyses)
    assert opened == [0]
    assert len(list(analyses)) == 2


def test_pictures_without_faces_and_broken_ones(analyzer, astronaut):
    """They keep their places; a broken one is an error, or with keep_going a result that says why."""
    grey = np.zeros((90, 90, 3), np.uint8)
    good = io.BytesIO()
    Image.fromarray(astronaut).save(good, "PNG")
    pictures = [Image.fromarray(grey), b"nonsense", good.getvalue(), good.getvalue()[:5000]]
    found = analyzer.analyze_batch(pictures, max_new_tokens=2, keep_going=True)
    assert [analysis.status for analysis in found] == ["no_face", "failed", "truncated", "failed"]
    assert "not an image" in found[1].warnings[0]
    assert found[1].image_size == (0, 0)
    with pytest.raises(ImageError, match="not an image"):
        analyzer.analyze_batch(pictures, max_new_tokens=2)
    assert analyzer.analyze_batch([]) == []
    with pytest.raises(TaskError, match="batch_size"):
        analyzer.analyze_batch([], batch_size=0)


def test_color_is_for_the_arrays_of_a_batch(analyzer, astronaut, tmp_path):
    """A path, an open file and a BGR array together: three times the same face."""
    Image.fromarray(astronaut).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        pictures = [tmp_path / "a.png", astronaut[:, :, ::-1], file, astronaut[:, :, 0]]
        *same, grey = analyzer.analyze_batch(pictures, color="bgr", tasks=("emotion",), max_new_tokens=3)
    assert [analysis.source for analysis in same] == [str(tmp_path / "a.png"), "array", str(tmp_path / "a.png")]
    assert same[0].faces == same[1].faces == same[2].faces != grey.faces


def test_a_folder_is_as_good_as_its_pictures(analyzer, astronaut, tmp_path, caplog):
    """Alone or in a list; what is no picture is skipped and named, what breaks off has its own result."""
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "sub/a.jpg"):
        Image.fromarray(astronaut).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".hidden").write_text("mine")
    options = {"tasks": "emotion", "max_new_tokens": 2}
    names = ["b.png", "sub/a.jpg"]
    for images in (str(tmp_path), tmp_path, [tmp_path]):
        found = analyzer.analyze_batch(images, **options)
        assert [analysis.source for analysis in found] == [str(tmp_path / name) for name in names]
    assert "skipped 1 without the ending of a picture" in caplog.text
    assert "notes.txt" in caplog.text
    mixed = analyzer.analyze_batch([tmp_path / "b.png", tmp_path / "sub", b"nonsense"], keep_going=True, **options)
    assert [analysis.status for analysis in mixed] == ["truncated", "truncated", "failed"]
    (tmp_path / "empty").mkdir()
    for images in (tmp_path / "empty", [tmp_path / "empty"]):
        with pytest.raises(ImageError, match="holds no picture"):
            analyzer.analyze_batch(images)


def test_one_odd_file_does_not_end_a_folder(analyzer, astronaut, tmp_path):
    """Each of these ended the run: AVIF, DDS and BLP with errors of their own types, EXIF text, EPS without end."""
    picture, good = Image.fromarray(astronaut), io.BytesIO()
    picture.save(good, "JPEG")
    tags = b"Exif\0\0II*\0\x08\0\0\0\1\0\x1a\1\2\0\3\0\0\x0072\0\0" + bytes(4)  # XResolution as text
    picture.save(tmp_path / "exif.jpg", exif=tags)
    odd = {
        "avif": bytes.fromhex("0000001c6674797061766966000000006d696631617669666d696166") + bytes(90),
        "dds": b"DDS |\0\0\0" + bytes([1] * 124),
        "blp": b"BLP2" + bytes([1] * 200),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{ } loop\n",
        "tiff": b"II*\0" + bytes([255] * 90),
        "empty": b"",
    }
    for name, content in (*odd.items(), ("good", good.getvalue())):
        (tmp_path / f"{name}.jpg").write_bytes(content)
    found = analyzer.analyze_batch(pictures_in(tmp_path), tasks=("emotion",), max_new_tokens=2, keep_going=True)
    status = {analysis.source.rpartition("/")[2].removesuffix(".jpg"): analysis.status for analysis in found}
    assert status == {**dict.fromkeys(odd, "failed"), "exif": "truncated", "good": "truncated"}
    assert all(".jpg" in analysis.warnings[0] for analysis in found if analysis.status == "failed")


def test_pictures_in_a_folder(tmp_path, caplog):
    """Every format that is read is listed, HEIF too where its plugin is missing; what is not read is named."""
    names = ["a.png", "b.JPG", "d.HEIC", "e.avif", "f.jfif", "g.gif", "sub/c.webp"]
    for name in (*names, "notes.txt", "x.jp2", "y.CR2"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert [path.relative_to(tmp_path).as_posix() for path in pictures_in(tmp_path)] == names
    assert "2 pictures are skipped, the first is" in caplog.text
    assert "x.jp2: .cr2, .jp2 is not read" in caplog.text
    with pytest.raises(ImageError, match="holds no picture; expected JPEG"):
        pictures_in(tmp_path / "nothing")


def test_a_half_encoder_counts_as_the_cpu_holds_it(analyzer):
    manifest = analyzer.manifest
    small, large = (
        Memory.of(manifest.model_copy(update={"encoder_weights": count}), manifest.variants[0]) for count in (1, 10**9)
    )
    assert large.weights - small.weights == 4 * 10**9 - manifest.files[manifest.vision].size


def test_the_memory_limit(analyzer, bundle, eight):
    """Room for two faces: batches of two. Room for none: one clear error before a weight is read."""
    memory = Memory.of(analyzer.manifest, analyzer.manifest.variants[0])
    limited = Analyzer(bundle(), memory_limit=memory.weights + 2 * memory.per_face + 1)
    assert limited._slots == 2
    found = limited.analyze_batch(eight, tasks=("emotion",), max_new_tokens=5, batch_size=8)
    assert [len(analysis.faces) for analysis in found] == [6, 1, 1]
    with pytest.raises(BackendError, match="needs about .* MB .*raise memory_limit"):
        Analyzer(bundle(), memory_limit=memory.weights)


def ten_batches(analyzer, crop):
    """Batches that end in every way: complete, left, stopped by a picture, cancelled; returns the errors."""
    options = {"color": "rgb", "faces": "aligned", "max_new_tokens": 4, "batch_size": 2}
    cancelled, errors = Event(), []
    cancelled.set()
    for _ in range(10):
        analyzer.analyze_batch([crop] * 3, **options)
        next(analyzer.iterate_batch([crop] * 3, **options))
        for pictures, cancel in (([crop, crop, np.zeros((3, 3))], None), ([crop], cancelled)):
            with pytest.raises((ImageError, CancelledError)) as caught:
                analyzer.analyze_batch(pictures, cancel=cancel, **options)
            errors.append(caught.value)
    return errors


def test_every_batch_gives_its_kv_pool_back(analyzer, astronaut, monkeypatch):
    """Without the garbage collector, and while the caller keeps the errors: their frames refer to pool and caches."""
    arrays, original = [], OrtPool.__init__

    def init(pool, *args):
        original(pool, *args)
        if len(pool.lengths) > 1:  # the caches of single faces stay for the next call
            arrays.append(weakref.ref(pool._host))

    monkeypatch.setattr(OrtPool, "__init__", init)
    gc.collect()
    gc.disable()
    try:
        errors = ten_batches(analyzer, astronaut[40:210, 140:310])
    finally:
        gc.enable()
    assert len(errors) == 20
    assert len(arrays) == 40
    assert [array() for array in arrays if array() is not None] == []

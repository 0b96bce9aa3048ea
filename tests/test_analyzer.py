"""The front door on real photographs. The bundle's words are noise; its path is the real one."""

import dataclasses
import inspect
import io
import json

import numpy as np
import pytest
from PIL import Image

from sdk import Analysis, Analyzer, SdkError
from sdk.aio import AsyncAnalyzer
from sdk.errors import BackendError, BundleNotFoundError, ImageError, TaskError
from sdk.faces.detect import Detection
from sdk.render import describe

TOKENS = 12


@pytest.fixture(scope="module")
def analyzer(bundle):
    return Analyzer(bundle())


def test_astronaut(analyzer, astronaut):
    analysis = analyzer.analyze(astronaut, color="rgb", max_new_tokens=TOKENS)
    (face,) = analysis.faces
    assert analysis.image_size == (512, 512)
    assert analysis.model.backend == "ort-float32"
    assert face.emotion.description
    assert face.action_units_text
    assert face.landmarks is None  # mode "emola" yields no coordinates
    assert list(analysis.timing_ms) == ["load", "detect", "crop", "landmark", "vision", "prefill", "question", "decode"]
    assert Analysis.model_validate_json(analysis.to_json()) == analysis


def test_t1_gives_one_result_for_each_of_six_faces(analyzer, t1):
    analysis = analyzer.analyze(Image.fromarray(t1), max_new_tokens=TOKENS)
    assert [face.id for face in analysis.faces] == list(range(6))
    for face in analysis.faces:
        left, top, right, bottom = face.box_xyxy
        assert 0 < left < right < 1280
        assert 0 < top < bottom < 886
        assert face.emotion.description


def test_every_source_gives_the_same_result(analyzer, astronaut, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(astronaut).save(path)
    sources = [(path, None), (path.read_bytes(), None), (Image.open(path), None), (astronaut[:, :, ::-1], "bgr")]
    with path.open("rb") as file:
        sources += [(io.BytesIO(path.read_bytes()), None), (file, None)]
        faces = [analyzer.analyze(source, color=color, max_new_tokens=TOKENS).faces for source, color in sources]
    assert all(found == faces[0] for found in faces)


def test_the_second_question_equals_a_fresh_run(analyzer, astronaut):
    """Both orders of the tasks, and each alone: the answers are equal to the letter."""
    tasks = ("emotion", "action_units")
    together = analyzer.analyze(astronaut, color="rgb", max_new_tokens=TOKENS).faces[0]
    swapped = analyzer.analyze(astronaut, color="rgb", tasks=tasks[::-1], max_new_tokens=TOKENS).faces[0]
    alone = [analyzer.analyze(astronaut, color="rgb", tasks=task, max_new_tokens=TOKENS).faces[0] for task in tasks]
    assert together == swapped
    assert together.emotion == alone[0].emotion
    assert together.action_units_text == alone[1].action_units_text
    assert alone[0].action_units is None
    assert alone[1].emotion is None


def test_streaming_gives_the_same_words(analyzer, astronaut):
    image = Image.fromarray(astronaut)
    whole = analyzer.analyze(image, tasks=("emotion",)).faces[0].emotion.description
    assert "".join(analyzer.stream(image, "emotion")).strip() == whole == analyzer.ask(image, "emotion")


def test_a_free_question_is_tokenised_as_in_training(analyzer, golden):
    from trainer.tokenization import load_tokenizer, prompt_ids

    question = "Is this person smiling? Why, or why not?"
    template = analyzer.manifest.prompt.free_question.replace("{question}", question)
    expected = prompt_ids(load_tokenizer(golden / "llava-base"), f"<image>{template}")[2:]
    assert analyzer.pipeline.question_ids(question) == expected


def test_no_face_is_an_empty_result(analyzer):
    analysis = analyzer.analyze(np.zeros((300, 300, 3), np.uint8), color="rgb")
    assert analysis.status == "no_face"
    assert analysis.faces == ()
    assert "--faces aligned" in describe(analysis)


def test_one_pixel(analyzer):
    dot = np.zeros((1, 1, 3), np.uint8)
    assert analyzer.analyze(dot, color="rgb").status == "no_face"
    assert len(analyzer.analyze(dot, color="rgb", faces="aligned", max_new_tokens=2).faces) == 1


def test_truncation_is_said(analyzer, astronaut):
    analysis = analyzer.analyze(astronaut, color="rgb", tasks=("emotion",), max_new_tokens=2)
    assert analysis.status == "truncated"
    assert analysis.warnings == ("face 0: the emotion answer was cut off after 2 tokens",)


def test_aligned_faces_and_given_features(analyzer, astronaut, tmp_path_factory):
    crop = astronaut[40:210, 140:310]
    features = np.zeros(212, np.float32)
    own = analyzer.analyze(crop, color="rgb", faces="aligned", max_new_tokens=TOKENS)
    given = analyzer.analyze(crop, color="rgb", faces="aligned", landmark_features=features, max_new_tokens=TOKENS)
    assert own.faces[0].detection_score is None
    assert own.faces[0] != given.faces[0], "the landmark row should matter"


def test_a_bundle_without_landmark_network_says_so(tmp_path, golden, astronaut):
    from export.build import export_bundle
    from export.options import ExportOptions

    paths = [str(golden / name) for name in ("llava-lora-emola-trained", "llava-base", "clip")]
    export_bundle(ExportOptions(paths[0], paths[1], tmp_path / "b", vision_tower=paths[2]))
    analyzer = Analyzer(tmp_path / "b")
    with pytest.raises(ImageError, match="without a landmark network.*landmark_features="):
        analyzer.analyze(astronaut, color="rgb")
    features = np.zeros(212, np.float32)
    result = analyzer.analyze(astronaut, color="rgb", faces="aligned", landmark_features=features, max_new_tokens=2)
    assert len(result.faces) == 1


@pytest.mark.parametrize("embedded", [False, True])
def test_detectors_of_the_users(bundle, astronaut, embedded):
    """A detector whose boxes are 1.3 times as large yields the same crop, hence the same words, and landmarks."""

    @dataclasses.dataclass
    class Fixed:
        box_extent: float
        box: tuple

        def detect(self, image):
            return [Detection(self.box, 0.9)]

    detectors = Fixed(1.0, (180.0, 80.0, 280.0, 180.0)), Fixed(1.3, (165.0, 65.0, 295.0, 195.0))
    path = None if embedded else bundle()
    faces = [
        Analyzer(path, detector=d).analyze(astronaut, color="rgb", max_new_tokens=TOKENS).faces[0] for d in detectors
    ]
    assert faces[0].emotion == faces[1].emotion
    assert (faces[0].landmarks is not None) == embedded
    assert faces[0].landmarks == faces[1].landmarks
    assert faces[0].detection_score == 0.9


def png(array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: a.analyze(b"nonsense"), ImageError, "not an image"),
        (lambda a: a.analyze(np.zeros((2, 2, 3), np.uint8)), ImageError, "color="),
        (lambda a: a.analyze(png(np.zeros((9, 9, 3), np.uint8)), tasks=("age",)), TaskError, "unknown task 'age'"),
        (lambda a: a.analyze(png(np.zeros((9, 9, 3), np.uint8)), faces="all"), TaskError, "faces must be"),
        (lambda a: a.analyze(b"x", landmark_features=np.zeros(212)), ImageError, "faces='aligned'"),
        (lambda a: a.analyze(b"x", faces="aligned", landmark_features=np.zeros(3)), ImageError, r"shape \(212,\)"),
        (lambda a: a.ask(png(np.zeros((99, 99, 3), np.uint8)), "Why?"), ImageError, "no face was found"),
        (lambda a: a.ask(b"x", "  "), TaskError, "question is empty"),
        (lambda a: a.ask(b"x", "why " * 5000), TaskError, "at most .* fit"),
        (lambda a: a.ask(b"x", "why \ud800"), TaskError, "halves of surrogate pairs"),
        (lambda a: a.analyze(b"x", tasks="age"), TaskError, "unknown task 'age'"),
        (lambda a: a.analyze(io.StringIO("x")), ImageError, r"open in binary mode.* its read\(\) gives str"),
        (lambda a: a.analyze(io.BytesIO()), ImageError, r"nothing left to read: it is empty, or .* seek\(0\)"),
        (lambda a: a.analyze_batch("photo.jpg"), ImageError, "expected several pictures, found one"),
        (lambda a: a.analyze_batch(np.zeros((9, 9, 3), np.uint8), color="rgb"), ImageError, "found one"),
        (lambda a: a.analyze_batch(io.BytesIO(b"x")), ImageError, "found one"),
    ],
)
def test_bad_input_is_one_clear_error(analyzer, call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(analyzer)
    assert isinstance(caught.value, SdkError)


def test_info_says_what_is_open(analyzer):
    info = analyzer.info()
    assert info["backend"] == "ort-float32"
    assert info["memory"]["weights"] > 100_000 < info["memory"]["per_face"]
    assert {"intended_use", "licences", "notice", "parity"} <= info.keys()
    assert json.loads(json.dumps(info)) == info


def test_no_bundle_and_no_device(bundle, monkeypatch, tmp_path):
    with pytest.raises(BundleNotFoundError, match="no such folder"):
        Analyzer("nowhere")
    with pytest.raises(BackendError, match="device must be"):
        Analyzer(bundle(), device="tpu")
    monkeypatch.setattr("sdk.bundles.hub.EMBEDDED", tmp_path / "absent")
    with pytest.raises(BundleNotFoundError, match="no embedded bundle"):
        Analyzer()


def test_a_closed_analyzer_says_so(bundle, astronaut):
    with Analyzer(bundle()) as analyzer:
        pass
    for call in (
        lambda: analyzer.analyze(astronaut, color="rgb"),
        analyzer.info,
        lambda: analyzer.ask("a.png", "Why?"),
    ):
        with pytest.raises(BackendError, match="was closed; open a new one"):
            call()
    analyzer.close()
    with pytest.raises(AttributeError, match="no attribute 'sing'"):
        analyzer.sing()


VERBS = ("analyze", "analyze_batch", "iterate_batch", "analyze_video", "watch", "ask", "stream")


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_option_is_a_type_error(analyzer, astronaut, verb):
    """A misspelt option is refused by every verb, also where the call gives an iterator, before anything is read."""
    arguments = {"ask": (astronaut, "Why?"), "stream": (astronaut, "Why?"), "analyze": (astronaut,)}.get(verb, ([],))
    with pytest.raises(TypeError, match="unexpected keyword argument 'tsks'"):
        getattr(analyzer, verb)(*arguments, tsks=("emotion",))


@pytest.mark.parametrize("owner", [Analyzer, AsyncAnalyzer])
def test_every_option_is_in_the_signature(owner):
    """`help()` shows each option of a public verb with its default; nothing is passed on unseen."""
    for name in (name for name in vars(owner) if name in VERBS):
        for parameter in inspect.signature(getattr(owner, name)).parameters.values():
            assert parameter.kind is not parameter.VAR_KEYWORD, f"{owner.__name__}.{name}(**{parameter.name})"
            if parameter.kind is parameter.KEYWORD_ONLY:
                assert parameter.default is not parameter.empty, f"{owner.__name__}.{name}({parameter.name})"

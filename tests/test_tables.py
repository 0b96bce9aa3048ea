"""Analyses as tables and as JSON."""

import csv
import json

import pytest

import sdk
from sdk.errors import SdkError
from sdk.faba.answers import read_action_units, read_emotion
from sdk.results import Analysis, Face, FrameInfo, HeadPose, ModelInfo
from sdk.tables import COLUMNS, CsvFile

UNITS = "AU6 (Cheek Raiser): raised. AU12 (Lip Corner Puller): pulled. There is no AU4 visible. AU45 (Blink): seen."


def analysis(count=2, **changes) -> Analysis:
    faces = tuple(
        Face(
            id=index,
            box_xyxy=(10.0 * index, 20.0, 60.5, 70.0),
            detection_score=1.5,
            landmarks=None,
            emotion=read_emotion('A happy, "quoted" face,\nin two lines.'),
            action_units=tuple(read_action_units(UNITS)),
            action_units_text=UNITS,
        )
        for index in range(count)
    )
    model = ModelInfo(name="tiny", digest="0", backend="ort-float32", notice=None)
    whole = Analysis(
        faces=faces, image_size=(200, 100), source="a.png", model=model, timing_ms={}, status="ok", warnings=()
    )
    return whole.model_copy(update=changes)


def test_dataframe():
    """A row per face under fixed columns; units the words deny or do not mention are 0, what was not asked is empty."""
    pandas = pytest.importorskip("pandas")
    table = analysis().to_dataframe()
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 2
    assert list(table[["AU6", "AU12", "AU4", "AU1"]].iloc[0]) == [1, 1, 0, 0]
    assert list(table[["AU6_reason", "AU4_reason"]].iloc[0]) == [
        "raised.",
        "There is no AU4 visible.",
    ]
    assert pandas.isna(table["AU1_reason"][0])
    assert table["emotion"].tolist() == ["happiness"] * 2
    assert table[["happiness", "AU6_score", "time_s"]].isna().all(axis=None)
    assert [str(table[name].dtype) for name in ("face_id", "x1", "AU6")] == ["int64", "float64", "float64"]
    silent = analysis(1).faces[0].model_copy(update={"action_units": None, "emotion": None})
    table = analysis(faces=(silent,)).to_dataframe()
    assert table["AU6"].isna().all()
    assert pandas.isna(table["emotion"][0])
    empty = analysis(0).to_dataframe()
    assert (len(empty), tuple(empty.columns)) == (0, COLUMNS)


def test_scores_and_frames_have_columns():
    pytest.importorskip("pandas")
    from sdk.faba.vocabulary import EMOTIONS
    from sdk.faba.vocabulary import FABA_UNITS as CODES

    scores = {f"AU{code}": code / 100 for code in CODES}
    emotion = read_emotion("sad").model_copy(update={"scores": dict.fromkeys(EMOTIONS, 1 / 7)})
    face = analysis(1).faces[0].model_copy(update={"action_unit_scores": scores, "emotion": emotion, "age_ms": 40.0})
    table = sdk.to_dataframe([analysis(faces=(face,), frame=FrameInfo(index=3, time_s=0.12, dropped=0))] * 2)
    assert table["frame"].tolist() == [3, 3]
    assert table["AU43_score"].tolist() == [0.43, 0.43]
    assert table["fear"][0] == pytest.approx(1 / 7)


def test_the_pose_has_columns():
    pytest.importorskip("pandas")
    pose = HeadPose(yaw=10.5, pitch=-3.0, roll=1.0)
    face = analysis(1).faces[0].model_copy(update={"head_pose": pose, "eye_openness": (0.25, 0.5)})
    table = sdk.to_dataframe([analysis(faces=(face,)), analysis(1)])
    assert table[["yaw", "pitch", "roll", "left_eye", "right_eye"]].iloc[0].tolist() == [10.5, -3, 1, 0.25, 0.5]
    assert table[["yaw", "left_eye"]].iloc[1].isna().all()


def test_one_spelling_of_a_unit():
    """The columns of a unit begin with its id in the JSON."""
    ids = [unit["id"] for unit in analysis(1).to_dict()["faces"][0]["action_units"]]
    assert {"AU4", "AU6", "AU12"} <= set(ids) & set(COLUMNS)
    assert not [name for name in COLUMNS if name.startswith("AU0")]


def test_numbers_of_indented_json_are_on_one_line():
    """A box and 106 landmarks take a line each, the rest is indented; what is read back is the same."""
    points = tuple((0.5 * index, 1e-7 * index) for index in range(106))
    face = analysis(1).faces[0].model_copy(update={"landmarks": points, "action_units": ()})
    whole = analysis(faces=(face,), warnings=("\u2028 odd", 'a "quote"'))
    text = whole.to_json(indent=2)
    lines = {line.split(":")[0].strip(): line for line in text.splitlines()}
    assert lines['"box_xyxy"'] == '      "box_xyxy": [0.0, 20.0, 60.5, 70.0],'
    assert lines['"landmarks"'].count("[") == 107
    assert lines['"image_size"'] == '  "image_size": [200, 100],'
    assert lines['"action_units"'].endswith(": [],")
    assert json.loads(text) == whole.to_dict()
    assert Analysis.model_validate_json(text) == whole
    assert "\n" not in whole.to_json()


def test_csv_equals_the_dataframe(tmp_path):
    """Quotes and line breaks in the words survive; pandas reads back what it would have made itself."""
    pandas = pytest.importorskip("pandas")
    whole = analysis()
    whole.to_csv(tmp_path / "sub" / "a.csv")
    read, made = pandas.read_csv(tmp_path / "sub" / "a.csv"), whole.to_dataframe()
    for name in (name for name in COLUMNS if name.endswith("_reason")):  # pandas reads an empty column as numbers
        assert read.pop(name).dropna().tolist() == made.pop(name).dropna().tolist(), name
    pandas.testing.assert_frame_equal(read, made, check_dtype=False)


def test_a_csv_that_breaks_off_keeps_its_rows(tmp_path):
    path = tmp_path / "a.csv"

    def interrupted():
        with CsvFile(path) as file:
            file.add(analysis())
            assert not path.exists(), "until it is closed it has another name"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with path.open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
    with pytest.raises(SdkError, match="cannot be written"):
        CsvFile("/proc/none/a.csv")


def test_a_csv_that_never_began_leaves_the_old_one(tmp_path):
    """An error before the first row: the table of an earlier run stays as it was; without an error it is replaced."""
    path = tmp_path / "a.csv"
    path.write_text("precious")
    with pytest.raises(KeyboardInterrupt), CsvFile(path):
        raise KeyboardInterrupt
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.csv", "precious")]
    with CsvFile(path):
        pass
    assert path.read_text().startswith("source,")


def test_json_round_trip_and_schema():
    whole = analysis(frame=FrameInfo(index=3, time_s=0.12, dropped=0))
    assert Analysis.model_validate_json(whole.to_json()) == whole
    schema = Analysis.model_json_schema()
    assert schema["properties"]["schema_version"]["const"] == whole.to_dict()["schema_version"] == "1.0"
    assert set(schema["required"]) <= set(whole.to_dict()) == set(schema["properties"])

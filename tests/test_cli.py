"""The command line: results on stdout, the rest on stderr, exit codes 0, 1 and 2, and never a traceback."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import GOLDEN, golden_json
from PIL import Image

from sdk.bundles.manifest import MANIFEST, read_manifest
from sdk.bundles.measured import FLOAT32_TOLERANCE
from sdk.cli import main

EXPORT = ["--base", str(GOLDEN / "llava-base"), "--vision-tower", str(GOLDEN / "clip")]


@pytest.fixture
def emola_cli(capsys):
    """Run a command line; returns exit code, stdout and stderr."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


@pytest.fixture
def photo(astronaut, tmp_path):
    path = tmp_path / "astronaut.png"
    Image.fromarray(astronaut).save(path)
    return path


def test_analyze_prints_and_draws(emola_cli, bundle, photo, tmp_path):
    saved = tmp_path / "out" / "annotated.png"
    code, out, err = emola_cli("analyze", photo, "--bundle", bundle(), "--max-tokens", 5, "--save", saved)
    assert code == 0
    assert "1 face" in out
    assert "emotion:" in out
    assert "cut off after 5 tokens" not in out, "warnings go to stderr"
    assert "cut off after 5 tokens" in err
    with Image.open(saved) as drawn:
        assert drawn.width == 960 < drawn.height, "the photo, enlarged from 512 pixels, and the words below it"


def test_analyze_json_is_one_document(emola_cli, bundle, photo):
    command = ["analyze", photo, "--bundle", bundle(), "--task", "emotion", "--max-tokens", 5, "--json"]
    code, out, _ = emola_cli(*command)
    document = json.loads(out)
    assert code == 0
    assert document["faces"][0]["action_units"] is None
    assert [line.count(",") for line in out.splitlines() if '"box_xyxy"' in line] == [4], "a box is on one line"
    code, out, _ = emola_cli(*command[:2], photo, *command[2:])
    assert [len(each["faces"]) for each in json.loads(out)] == [1, 1]


def test_analyze_reads_stdin(bundle, photo, tmp_path):
    """A picture that a pipe brings is named <stdin>, an empty pipe is an error."""
    command = [sys.executable, "-m", "sdk", "analyze", "-", "--bundle", bundle(), "--max-tokens", "2"]
    drawn = tmp_path / "drawn.png"
    options = ["--json", "--save", drawn]
    done = subprocess.run([*command, *options], input=photo.read_bytes(), capture_output=True, check=True)
    document = json.loads(done.stdout)
    assert (document["source"], len(document["faces"])) == ("<stdin>", 1)
    with Image.open(drawn) as picture:
        assert picture.width == 960
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, "nothing left to read" in done.stderr) == (1, True), done.stderr


def test_a_broken_photo_does_not_stop_the_others(emola_cli, bundle, photo, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    command = ["analyze", tmp_path / "broken.jpg", photo, "--bundle", bundle(), "--max-tokens", 2]
    code, out, err = emola_cli(*command)
    assert code == 1
    assert "astronaut.png" in out
    assert err.count("emola: error:") == 1
    assert "broken.jpg" in err


def test_a_folder_becomes_one_table(emola_cli, bundle, photo, tmp_path, astronaut):
    """Two photos, one of them in a subfolder, one broken: two rows, the broken one is named, exit 1."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.fromarray(astronaut).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    table = tmp_path / "faces.csv"
    code, out, err = emola_cli("analyze", folder, "--bundle", bundle(), "--max-tokens", 2, "--csv", table)
    assert (code, out) == (1, "")
    assert "1 of 3 pictures could not be read" in err
    assert "broken.jpg" in err
    rows = table.read_text().splitlines()
    assert rows[0].startswith("source,frame,time_s,face_id")
    assert [Path(row.split(",")[0]).name for row in rows[1:]] == ["a.png", "b.png"]
    (tmp_path / "nothing").mkdir()
    code, _, err = emola_cli("analyze", tmp_path / "nothing", "--bundle", bundle())
    assert (code, "holds no picture" in err) == (1, True)


def test_drawings_replace_neither_each_other_nor_a_photo(emola_cli, bundle, tmp_path, astronaut):
    """Two photos of one name in two folders give two drawings; what would replace a photo is refused at once."""
    for folder in ("x", "y"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        Image.fromarray(astronaut[40:210, 140:310]).save(tmp_path / "photos" / folder / "a.png")
    options = ("--faces", "aligned", "--bundle", bundle(), "--max-tokens", 2, "--save")
    code, _, err = emola_cli("analyze", tmp_path / "photos", *options, tmp_path / "drawn")
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["x_a.png.png", "y_a.png.png"]
    photo = tmp_path / "photos" / "x" / "a.png"
    before = photo.read_bytes()
    other_name = tmp_path / "photos" / "y" / ".." / "x" / "a.png"
    for output in ((*options, photo), (*options, other_name), ("--csv", photo)):
        code, _, err = emola_cli("analyze", photo, *output)
        assert (code, "would replace an input" in err, photo.read_bytes() == before) == (2, True, True), err


def test_several_photos_are_drawn_into_a_folder(emola_cli, bundle, photo, tmp_path):
    """The name of a picture is refused for them, and so is a file; nothing is made."""
    (tmp_path / "notes").write_text("mine")
    for place in ("one.png", "notes"):
        code, _, err = emola_cli("analyze", photo, photo, "--bundle", bundle(), "--save", tmp_path / place)
        assert (code, "expected the name of a folder for several photos" in err) == (2, True), err
    assert not (tmp_path / "one.png").exists()
    assert (tmp_path / "notes").read_text() == "mine"


def test_labels_only(emola_cli, bundle, photo):
    code, out, _ = emola_cli("analyze", photo, "--bundle", bundle(), "--task", "labels", "--json")
    face = json.loads(out)["faces"][0]
    assert code == 0
    assert len(face["action_unit_scores"]) == 20
    assert sum(face["emotion"]["scores"].values()) == pytest.approx(1)


def test_export_verify_info(emola_cli, tmp_path, landmark_network):
    """Both golden adapters: exported, verified, described; random weights in 4 bits agree with torch on too little."""
    for name, options in (("init", ["--allow"]), ("trained", [])):
        out = tmp_path / name
        adapter = GOLDEN / f"llava-lora-emola-{name}"
        code, text, err = emola_cli("export", adapter, out, *EXPORT, *options, "--landmark-model", landmark_network)
        assert (code, "sealed" in text) == (0, True), err
        code, text, _ = emola_cli("verify", out)
        assert (code, text.count("ok ")) == (0, 3)
        code, text, _ = emola_cli("info", out)
        assert code == 0
        for words in ("intended use", "licence", "ort-int4", "parity", "3 layers, 64 wide"):
            assert words in text
        code, text, _ = emola_cli("verify", out, "--json")
        assert all(row["passed"] for row in json.loads(text)["parity"])


def test_verify_finds_a_changed_file(emola_cli, bundle, tmp_path):
    copy = shutil.copytree(bundle(), tmp_path / "copy")
    data = bytearray((copy / "vision.onnx").read_bytes())
    data[-100] ^= 1
    (copy / "vision.onnx").write_bytes(data)
    code, _, err = emola_cli("verify", copy)
    assert code == 1
    assert "SHA-256 differs" in err


def test_verify_measures_a_stage_that_was_not_sealed(emola_cli, bundle, tmp_path):
    """Without sealed figures the tolerance is that of float32."""
    copy = shutil.copytree(bundle(), tmp_path / "copy")
    manifest = read_manifest(copy)
    kept = tuple(parity for parity in manifest.parity if parity.stage != "vision")
    (copy / MANIFEST).write_text(manifest.model_copy(update={"parity": kept}).to_json(), encoding="utf-8")
    code, text, err = emola_cli("verify", copy, "--json")
    assert code == 0, err
    (vision,) = (row for row in json.loads(text)["parity"] if row["stage"] == "vision")
    assert vision["tolerance"] == FLOAT32_TOLERANCE


@pytest.fixture
def rege_files(tmp_path):
    run = golden_json("golden_rege.json")["runs"][1]
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps(run["annotations"]))

    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return ["rege", "--task", "au", "--dataset", "FABA", "--annotations", annotations, "--predictions", path]

    return run["predictions"], write


def test_rege_reads_every_form_of_predictions(emola_cli, rege_files):
    texts, write = rege_files
    records = [{"index": index, "prediction": text} for index, text in enumerate(texts)]
    forms = {
        "list.json": json.dumps(texts),
        "pred.json": json.dumps({str(i): text for i, text in enumerate(texts)}),
        "texts.jsonl": "\n".join(map(json.dumps, texts)),
        "records.jsonl": "\n".join(map(json.dumps, reversed(records))),
        "plain.jsonl": "\n".join(json.dumps({"prediction": text}) for text in texts),
    }
    for name, text in forms.items():
        code, out, _ = emola_cli(*write(name, text), "--json")
        assert code == 0
        assert f"{json.loads(out)['s_re']:.2f}" == "64.26", name
    code, out, _ = emola_cli(*write("list.json", forms["list.json"]), "--protocol", "paper")
    assert "S_rege" in out
    assert "Brow Lowerer" in out


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "[1, 2]", "expected a JSON list of texts"),
        ("a.json", "{", "is not JSON"),
        ("a.json", '["one"]', "found 1 predictions and 120 annotations"),
        ("a.json", '{"1": "text"}', "no prediction for index 0"),
        ("a.jsonl", '{"index": 0}', "object 0 has no 'prediction'"),
    ],
)
def test_rege_bad_predictions(emola_cli, rege_files, name, text, message):
    code, _, err = emola_cli(*rege_files[1](name, text))
    assert code == 1
    assert message in err


def test_rege_missing_file(emola_cli):
    code, _, err = emola_cli("rege", "--task", "au", "--annotations", "no.json", "--predictions", "no.json")
    assert code == 1
    assert "no.json cannot be read" in err


def test_failures(emola_cli, photo, tmp_path, bundle):
    cases = [
        (["analyze", photo, "--bundle", tmp_path / "none"], 1, "no such folder"),
        (["analyze", tmp_path / "none.png", "--bundle", bundle()], 1, "does not exist"),
        (["analyze", photo, "--bundle", bundle(), "--max-tokens", 0], 2, "at least 1"),
        (["analyze", photo, "--threads", 0], 2, "--threads must be at least 1"),
        (["analyze", photo, "--max-faces", 0], 2, "--max-faces must be at least 1"),
        (["analyze", photo, "--min-face", "nan"], 2, "--min-face must be at least 0"),
        (["analyze", photo, "--abstain-below", 0.5], 2, "add --scores"),
        (["analyze", photo, "--save", tmp_path / "drawn.doc"], 2, "such as out.png"),
        (["analyze", photo, "--save", tmp_path / "read-only.psd"], 2, "such as out.png"),
        (["analyze", photo, "--frobnicate"], 2, "usage: emola analyze"),
        (["verify", tmp_path], 1, "no manifest.json"),
        (["export", GOLDEN / "nowhere", tmp_path / "out", *EXPORT], 1, "is not a folder"),
        (["export", "none", tmp_path / "out", *EXPORT, "--group-size", 32], 1, "--group-size is for --quantize gptq"),
        (["analyze"], 2, "required: PHOTO"),
        (["analyze", photo, "--task", "age"], 2, "invalid choice"),
        (["dance"], 2, "invalid choice"),
        (["--frobnicate"], 2, "required"),
        ([], 2, "explain the faces in photographs"),
    ]
    for command, expected, message in cases:
        code, out, err = emola_cli(*command)
        assert (code, out) == (expected, ""), command
        assert message in err, command
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.work").exists()


def test_a_missing_package_is_named_with_what_brings_it(emola_cli, monkeypatch):
    for command, advice in (("verify", "pip install 'emola-edge[cpu]'"), ("info", "pip install emola-edge\n")):
        monkeypatch.setitem(sys.modules, f"sdk.commands.{command}", None)
        code, _, err = emola_cli(command)
        assert (code, advice in err) == (1, True), err


def test_the_installed_command():
    result = subprocess.run([sys.executable, "-m", "sdk", "--version"], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert result.stdout.startswith("emola-edge ")
    assert main(["--help"]) == 0

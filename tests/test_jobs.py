"""`emola batch` in one process: one row per input whatever is broken, and nothing is analysed twice."""

import csv
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdk import Analyzer
from sdk.cli import main
from sdk.commands.demo import PICTURES
from sdk.errors import BundleError, ImageError, OutputError, UsageError
from sdk.jobs.inputs import find_inputs, read_pictures
from sdk.jobs.job import Job, Record, Worker
from sdk.jobs.store import Store
from sdk.records import AnalysisRecord
from sdk.tables import COLUMNS, rows

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install 'emola-edge[batch]'")

ROOT = Path(__file__).parents[1]
QUICK = ["--task", "emotion", "--faces", "aligned", "--max-tokens", "3"]


def batch(*words):
    return main(["batch", *map(str, words), *QUICK])


def table(path):
    return parquet.read_table(path).to_pylist()


def make_pictures(folder, count):
    """Small pictures with different contents."""
    folder.mkdir(exist_ok=True)
    for index in range(count):
        Image.fromarray(np.full((40, 40, 3), index, np.uint8)).save(folder / f"{index:03}.png")
    return folder


@pytest.fixture
def analysed(monkeypatch):
    """Digests of the pictures that an Analyzer gets."""
    seen, original = [], Analyzer.iterate_batch

    def iterate_batch(self, images, **options):
        def noted():
            for image in images:
                seen.append(hashlib.sha256(image).hexdigest())
                yield image

        return original(self, noted(), **options)

    monkeypatch.setattr(Analyzer, "iterate_batch", iterate_batch)
    return seen


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A folder with everything, a table of it, and the job's result."""
    root = tmp_path_factory.mktemp("album")
    photos = root / "photos"
    (photos / "sub").mkdir(parents=True)
    for name in ("astronaut.jpg", "rendered.jpg"):
        shutil.copy(PICTURES / name, photos / name)
    shutil.copy(PICTURES / "rendered.jpg", photos / "sub/again.jpg")
    (photos / "sub/broken.jpg").write_text("no picture")
    (photos / "notes.txt").write_text("not an input")
    with (root / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["id", "path"], [1, "photos/rendered.jpg"], [2, "missing.jpg"], [3, ""], [4, "photos/sub"]]
        )
    assert main(["batch", str(photos), str(root / "list.csv"), "--out", str(root / "out.parquet")]) == 0
    return root


def test_one_row_for_each_input_in_order(album):
    found = table(album / "out.parquet")
    assert [row["input"] for row in found] == list(range(8))
    names = ["astronaut.jpg", "rendered.jpg", "sub/again.jpg", "sub/broken.jpg", "rendered.jpg"]
    expected = [str(album / "photos" / name) for name in names]
    assert [row["source"] for row in found] == [*expected, str(album / "missing.jpg"), "", str(album / "photos/sub")]
    assert [row["status"] for row in found] == ["ok", "ok", "ok", "failed", "ok", *["failed"] * 3]
    errors = ["broken.jpg: not an image", "does not exist", "the name of this input is empty", "is a folder"]
    for row, words in zip([row for row in found if row["error"]], errors, strict=True):
        assert words in row["error"]
        assert (row["faces"], row["analysis"], row["width"]) == ([], None, None)
    digest = hashlib.sha256((PICTURES / "rendered.jpg").read_bytes()).hexdigest()
    assert [row["sha256"] == digest for row in found] == [False, True, True, False, True, False, False, False]
    assert [row["sha256"] is None for row in found] == [*[False] * 5, True, True, True]
    assert sorted(path.name for path in album.iterdir()) == ["list.csv", "out.parquet", "photos"]


def test_rows_hold_what_analyze_finds(album):
    """The faces have the columns of the CSV, and `analysis` is the document of --json."""
    found = {Path(row["source"]).name: row for row in table(album / "out.parquet") if row["analysis"]}
    with Analyzer() as analyzer:
        for name in ("astronaut.jpg", "rendered.jpg"):
            expected = analyzer.analyze(album / "photos" / name)
            row, analysis = found[name], AnalysisRecord.model_validate_json(found[name]["analysis"])
            assert (analysis.faces, analysis.source, analysis.model) == (
                expected.faces,
                row["source"],
                expected.model,
            )
            assert (row["width"], row["height"]) == expected.image_size
            assert row["faces"] == [
                {key: face[key] for key in COLUMNS if key not in ("source", "frame", "time_s")}
                for face in rows(expected)
            ]


def test_sources(album, tmp_path, monkeypatch):
    """A folder, a pattern, a table, one file, and what cannot be a source."""
    monkeypatch.chdir(album)
    assert find_inputs(["photos/*.jpg"]) == ["photos/astronaut.jpg", "photos/rendered.jpg"]
    assert len(find_inputs(["photos/**/*"])) == 4
    assert find_inputs(["photos/astronaut.jpg", "gone.jpg"]) == ["photos/astronaut.jpg", "gone.jpg"]
    found = find_inputs(["out.parquet"], "source")
    assert found[:2] == [str(album / "photos/astronaut.jpg"), str(album / "photos/rendered.jpg")]
    assert len(found) == 8
    (tmp_path / "x.CR2").write_bytes(b"raw")
    assert find_inputs([str(tmp_path)]) == [str(tmp_path / "x.CR2")], "it gets a row that says why it is not read"
    for source, words in {
        "gone": "does not exist",
        "*.gif": "matches no picture",
        "gone.csv": "does not exist",
    }.items():
        with pytest.raises(ImageError, match=words):
            find_inputs([source])


def test_no_row_of_a_table_hides_another(tmp_path):
    """Every URL of a table is checked, and a name that no file can have is an error of its own row."""
    pytest.importorskip("fsspec")
    lines = tmp_path / "list.csv"
    lines.write_text("path\nmemory://a.jpg::https://example.org/a.jpg\nmemory://b.jpg\n")
    with pytest.raises(UsageError, match="chained URLs"):
        find_inputs([str(lines)])
    worker = Worker(Job({}, ("emotion",)), ())
    for name in ("a\0.mp4", "a\0.jpg"):
        (record,) = worker.records([(0, name)])
        assert "null" in record.error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos", "--out", "a.csv"], "ending in .parquet"),
        (["list.csv", "--out", "a.parquet", "--column", "file"], "has no column 'file', only id, path"),
        (["out.parquet", "--out", "out.parquet"], "would replace an input"),
        (["photos", "--out", "a.parquet", "--workers", "2"], "--workers needs --engine ray"),
        (["photos", "--out", "a.parquet", "--fps", "0"], "--fps must be greater than 0"),
        (["https://example.org/a.jpg", "--out", "a.parquet"], "not downloaded from web servers"),
        (["zip://a.jpg::memory://b.zip", "--out", "a.parquet"], "chained URLs"),
        (["nonsense://a.jpg", "--out", "a.parquet"], "knows no nonsense://"),
        (["s3://bucket", "--out", "a.parquet", "--offline"], "--offline"),
    ],
)
def test_wrong_usage_is_one_line(album, monkeypatch, capsys, words, message):
    monkeypatch.chdir(album)
    if "://" in words[0]:
        pytest.importorskip("fsspec")
    assert main(["batch", *words]) == 2
    line = capsys.readouterr().err
    assert line.startswith("emola: error: ")
    assert message in line
    assert sorted(path.name for path in album.iterdir()) == ["list.csv", "out.parquet", "photos"]


def test_a_killed_job_goes_on(tmp_path, analysed):
    """SIGKILL in the middle: what was committed is not analysed again, and every picture has one row."""
    photos, out, count = make_pictures(tmp_path / "photos", 250), tmp_path / "out.parquet", 250
    command = [sys.executable, "-m", "sdk", "batch", str(photos), "--out", str(out), *QUICK]
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    state = tmp_path / "out.parquet.partial"
    while not (done := committed(state)) and child.poll() is None:
        time.sleep(0.005)
    assert child.poll() is None, f"it ended before it was killed: {child.communicate()[1]}"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    done = committed(state)
    assert 0 < len(done) < count, "killed in the middle"
    assert batch(photos, "--out", out) == 0
    assert not done & set(analysed)
    assert len(analysed) == count - len(done)
    assert [Path(row["source"]).name for row in table(out)] == [f"{index:03}.png" for index in range(count)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "photos"]


def committed(state):
    """Digests of the contents that a running job has committed."""
    try:
        with sqlite3.connect(f"file:{state}?mode=ro", uri=True, timeout=30) as connection:
            found = {digest.hex() for (digest,) in connection.execute("SELECT sha256 FROM contents")}
        connection.close()
        return found
    except sqlite3.OperationalError:  # no file or no table yet
        return set()


def test_a_second_run_reads_new_contents_only(tmp_path, analysed, capsys):
    """Files that were added, renamed, copied and removed; a broken one is tried again."""
    photos, out = make_pictures(tmp_path / "photos", 4), tmp_path / "out.parquet"
    (photos / "x.png").write_bytes(b"no picture")
    assert batch(photos, "--out", out) == 0
    assert "5 rows of 5 inputs, 1 failed" in capsys.readouterr().err
    assert len(analysed) == 5
    analysed.clear()
    (photos / "000.png").rename(photos / "y.png")
    shutil.copy(photos / "001.png", photos / "z.png")
    (photos / "002.png").unlink()
    Image.fromarray(np.full((40, 40, 3), 99, np.uint8)).save(photos / "new.png")
    assert batch(photos, "--out", out) == 0
    new = [hashlib.sha256((photos / name).read_bytes()).hexdigest() for name in ("new.png", "x.png")]
    assert analysed == new
    found = table(out)
    assert [Path(row["source"]).name for row in found] == ["001.png", "003.png", "new.png", "x.png", "y.png", "z.png"]
    assert [json.loads(row["analysis"])["source"] for row in found if row["analysis"]] == [
        row["source"] for row in found if row["analysis"]
    ]


def test_results_of_other_settings_stay(tmp_path, capsys):
    photos, out = make_pictures(tmp_path / "photos", 1), tmp_path / "out.parquet"
    assert batch(photos, "--out", out) == 0
    content = out.read_bytes()
    assert batch(photos, "--out", out, "--scores") == 1
    assert "results of another job: scores (found False, expected True) differ" in capsys.readouterr().err
    assert out.read_bytes() == content
    for foreign, words in ((b"text", "cannot be read"), (foreign_table(tmp_path), "not written by emola batch")):
        out.write_bytes(foreign)
        assert batch(photos, "--out", out) == 1
        assert words in capsys.readouterr().err
        assert out.read_bytes() == foreign
    (tmp_path / "out.parquet.partial").write_bytes(b"no database" * 100)
    assert batch(photos, "--out", out) == 1
    assert "remove it to start again" in capsys.readouterr().err


def test_results_that_somebody_made_up_are_refused(tmp_path, capsys):
    """A Parquet file or an SQLite file that only looks like ours is one line, and stays as it is."""
    import pyarrow

    photos, out = make_pictures(tmp_path / "photos", 1), tmp_path / "out.parquet"
    assert batch(photos, "--out", out) == 0
    ours = parquet.read_table(out)
    for content, words in (
        (ours.replace_schema_metadata({"emola.batch": "[1]"}), "expected an object of settings"),
        (ours.drop_columns(["sha256"]), "lacks columns of emola batch ('sha256')"),
        (ours.set_column(11, "analysis", pyarrow.array(["{}"])), "cannot be read"),
    ):
        parquet.write_table(content, out)
        written = out.read_bytes()
        assert batch(photos, "--out", out) == 1
        assert words in capsys.readouterr().err
        assert out.read_bytes() == written
    out.unlink()
    settings = "CREATE TABLE settings (content TEXT NOT NULL); INSERT INTO settings VALUES"
    for script, words in (
        (f"{settings} ('{{')", "its settings are not JSON"),
        (f"{settings} ('[]')", "expected an object of settings"),
        ("CREATE TABLE contents (digest BLOB)", "no such column: sha256; remove it to start again"),
    ):
        with closing(sqlite3.connect(tmp_path / "out.parquet.partial")) as database:
            database.executescript(script)
        assert batch(photos, "--out", out) == 1
        assert words in capsys.readouterr().err
        (tmp_path / "out.parquet.partial").unlink(missing_ok=True)


def foreign_table(folder):
    import pyarrow

    parquet.write_table(pyarrow.table({"a": [1]}), folder / "foreign")
    content = (folder / "foreign").read_bytes()
    (folder / "foreign").unlink()
    return content


def test_another_bundle_than_that_of_the_job_is_refused():
    """A name of the hub may lead to another commit on another machine, or a minute later."""
    with pytest.raises(BundleError, match="expected the bundle abc, found"):
        Worker(Job({}, ("emotion",), digest="abc"), ())


def test_what_comes_twice_counts_once(tmp_path):
    """A cluster may deliver the records of an input again, in part or in another order."""
    first, second = (Record(0, b"a", part, f"{part}", last=False) for part in range(2))
    with Store(tmp_path / "out.parquet", {}) as store:
        given = [first, first, Record(1, b"b", error="broken"), second, Record(0, b"a"), second, Record(0, b"a")]
        assert [store.add(record) for record in given] == [False, False, True, False, True, False, False]
        assert (store.count, store.failed) == (2, 1)
        assert [tuple(result) for result in store.results()] == [
            (0, b"a", "0", None),
            (0, b"a", "1", None),
            (1, b"b", None, "broken"),
        ]
        assert store.known() == [b"a"]
        with pytest.raises(OutputError, match="another process"):
            Store(tmp_path / "out.parquet", {})


def test_pictures_are_read_when_they_are_needed(tmp_path, monkeypatch):
    """Memory does not grow with the number of inputs."""
    photos = make_pictures(tmp_path / "photos", 30)
    opened, original = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path) or original(path))
    contents = read_pictures([str(path) for path in sorted(photos.iterdir())])
    next(contents)
    time.sleep(0.2)
    assert len(opened) < 10
    assert len(list(contents)) == 29


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    (error,) = read_pictures([str(tmp_path / "a.jpg")])
    assert "no regular file" in str(error)


def test_fsspec_reads_other_file_systems(tmp_path, capsys):
    """fsspec's own file system in memory: folder, pattern, table, one file, and one that is gone."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    files.store.clear()
    picture = (PICTURES / "rendered.jpg").read_bytes()
    files.pipe({"/set/a.jpg": picture, "/set/deep/b.jpg": picture + b"\0", "/set/notes.txt": b"x"})
    files.pipe("/set/list.csv", b"path\na.jpg\nmemory://set/gone.jpg\n")
    try:
        assert find_inputs(["memory://set"]) == ["memory:///set/a.jpg", "memory:///set/deep/b.jpg"]
        assert find_inputs(["memory://set/*.jpg"]) == ["memory:///set/a.jpg"]
        assert batch("memory://set", "memory://set/list.csv", "--out", tmp_path / "out.parquet") == 0
    finally:
        files.store.clear()
    found = table(tmp_path / "out.parquet")
    assert [row["status"] for row in found] == ["truncated"] * 3 + ["failed"]
    assert found[0]["sha256"] == found[2]["sha256"] == hashlib.sha256(picture).hexdigest()
    assert "memory://set/gone.jpg does not exist" in found[3]["error"]

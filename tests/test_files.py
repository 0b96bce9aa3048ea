"""Outputs: links, pipes and modes stay, nothing is half written, one writer at a time, and nothing is left behind."""

import csv
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from test_tables import analysis

from sdk.errors import OutputError
from sdk.files import replacing, write_file, write_json
from sdk.locks import SUFFIX, Lock, writing_into
from sdk.tables import CsvFile

posix = pytest.mark.skipif(os.name == "nt", reason="links, pipes and modes of POSIX")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_table(path):
    with CsvFile(path) as file:
        file.add(analysis(1))


def table_rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system can be mounted by the superuser only")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk, leave=0):
    usage = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(max(0, usage.f_bavail * usage.f_frsize - leave)))


@posix
@pytest.mark.parametrize("write", [write_table, lambda path: write_file(path, b"source,")], ids=["table", "file"])
class TestWhatIsThere:
    def test_a_link_is_followed_and_the_mode_is_kept(self, tmp_path, write):
        (tmp_path / "real").mkdir()
        real, link = tmp_path / "real" / "a.csv", tmp_path / "link.csv"
        real.write_text("old")
        real.chmod(0o600)
        link.symlink_to("real/a.csv")
        write(link)
        assert link.is_symlink()
        assert real.read_text().startswith("source,")
        assert stat.S_IMODE(real.stat().st_mode) == 0o600
        assert names(tmp_path) == ["link.csv", "real"]
        assert names(real.parent) == ["a.csv"]

    def test_a_link_to_nothing_makes_its_target(self, tmp_path, write):
        (tmp_path / "link.csv").symlink_to("new.csv")
        write(tmp_path / "link.csv")
        assert (tmp_path / "link.csv").is_symlink()
        assert (tmp_path / "new.csv").read_text().startswith("source,")

    def test_a_pipe_is_written_through(self, tmp_path, write):
        os.mkfifo(tmp_path / "pipe")
        got = []
        reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
        reader.start()
        write(tmp_path / "pipe")
        reader.join()
        assert got[0].startswith("source,")
        assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
        assert names(tmp_path) == ["pipe"]

    def test_a_device_is_written_through(self, tmp_path, write, monkeypatch):
        """A plain file that says it is a device: it is opened, neither replaced nor removed, also after an error."""
        path = tmp_path / "device"
        path.write_text("old")
        number = path.stat().st_ino
        monkeypatch.setattr(stat, "S_ISCHR", lambda mode: True)
        write(path)
        assert (path.stat().st_ino, path.read_text()[:7]) == (number, "source,")
        with pytest.raises(KeyboardInterrupt), replacing(path) as place:
            raise KeyboardInterrupt
        assert (place, path.exists()) == (path, True)

    def test_a_new_file_has_the_mode_of_the_umask(self, tmp_path, write):
        before = os.umask(0o027)
        try:
            write(tmp_path / "a.csv")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "a.csv").stat().st_mode) == 0o640

    def test_what_cannot_be_replaced_is_named(self, tmp_path, write):
        (tmp_path / "folder").mkdir()
        (tmp_path / "loop").symlink_to("loop")
        for name, reason in (("folder", "it is a folder"), ("loop", "Too many levels")):
            with pytest.raises(OutputError, match=f"{name} cannot be written.*{reason}"):
                write(tmp_path / name)
        assert names(tmp_path) == ["folder", "loop"]

    def test_a_name_of_255_bytes(self, tmp_path, write):
        write(tmp_path / ("n" * 251 + ".csv"))
        assert names(tmp_path) == ["n" * 251 + ".csv"]


@posix
def test_a_file_mounted_by_itself_gets_the_content(tmp_path):
    """As a container mounts one: it cannot be renamed over."""
    inside, outside = tmp_path / "inside.csv", tmp_path / "outside.csv"
    inside.touch()
    outside.write_text("old")
    try:
        subprocess.run(["mount", "--bind", str(outside), str(inside)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file can be mounted by the superuser only")
    try:
        write_table(inside)
    finally:
        subprocess.run(["umount", str(inside)], check=True)
    assert outside.read_text().startswith("source,")
    assert names(tmp_path) == ["inside.csv", "outside.csv"]


def test_the_second_writer_is_told(tmp_path):
    """Two runs with one --csv: the second says so, the first is whole."""
    with CsvFile(tmp_path / "a.csv") as first:
        first.add(analysis(1))
        with pytest.raises(OutputError, match=r"another process is writing .*a\.csv; wait until it has finished"):
            CsvFile(tmp_path / "a.csv")
        first.add(analysis(1))
    assert len(table_rows(tmp_path / "a.csv")) == 3
    with writing_into(tmp_path / "run"):
        second = writing_into(tmp_path / "run")
        with pytest.raises(OutputError, match="another process is writing"):
            second.__enter__()
    assert names(tmp_path) == ["a.csv", "run"]
    assert names(tmp_path / "run") == []


def test_many_writers_of_one_small_file_take_turns(tmp_path):
    contents = [bytes([number]) * 3000 for number in range(8)]

    def write(content):
        for _ in range(20):
            write_file(tmp_path / "a", content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() in contents
    assert names(tmp_path) == ["a"]


KILLED = """
import os, signal, sys
from pathlib import Path
from sdk.files import replacing
from sdk.locks import writing_into
path = Path(sys.argv[1])
with writing_into(path.parent), replacing(path, folder=sys.argv[2] == "folder") as place:
    (place / "half" if place.is_dir() else place).write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def be_killed(path, kind="file"):
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), kind], cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == -signal.SIGKILL


@posix
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, kind):
    path = tmp_path / "out"
    for _ in range(2):
        be_killed(path, kind)
        assert not path.exists()
    assert len(names(tmp_path)) > 1, "it left something, or the test shows nothing"
    with writing_into(tmp_path), replacing(path, folder=kind == "folder") as place:
        (place / "whole" if kind == "folder" else place).write_bytes(b"whole")
    assert names(tmp_path) == ["out"]
    assert (path / "whole" if kind == "folder" else path).read_bytes() == b"whole"


@posix
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_is_removed_by_a_run_that_writes_something_else(tmp_path, kind):
    be_killed(tmp_path / "out", kind)
    assert any(name.endswith(".partial") for name in names(tmp_path))
    with writing_into(tmp_path), replacing(tmp_path / "other") as place:
        place.touch()
    assert names(tmp_path) == ["other"]


@posix
def test_a_folder_that_a_killed_process_put_aside_comes_back_in_a_run_that_writes_something_else(tmp_path):
    (tmp_path / SUFFIX).touch()
    lock = tmp_path / f".out{SUFFIX}"
    lock.touch()
    aside = tmp_path / f"out.{lock.stat().st_ino:x}.before"
    aside.mkdir()
    (aside / "old").touch()
    with writing_into(tmp_path):
        assert names(tmp_path / "out") == ["old"]
    assert names(tmp_path) == ["out"]


@posix
def test_locks_that_a_killed_process_left_of_complete_files_are_removed(tmp_path):
    """The kill comes after the file has its name; the next run does not write it again. A lock that is held stays."""
    (tmp_path / "landmarks").mkdir()
    for path in (tmp_path / SUFFIX, tmp_path / f"landmarks/.0.npy{SUFFIX}"):
        path.touch()
    held = Lock(tmp_path / f"landmarks/.1.npy{SUFFIX}", tmp_path / "landmarks/1.npy")
    with writing_into(tmp_path):
        assert names(tmp_path / "landmarks") == [f".1.npy{SUFFIX}"]
    held.release()
    assert (names(tmp_path), names(tmp_path / "landmarks")) == (["landmarks"], [])


def test_a_folder_that_was_put_aside_comes_back(tmp_path, monkeypatch):
    """The kill comes after the old folder has moved and before the new one has: the next run starts with the old."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()

    def fail(new):
        assert not (tmp_path / "out").exists()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("sdk.replacement.Replacement._rename", fail)
    with pytest.raises(OutputError, match="Input/output error"), replacing(tmp_path / "out", folder=True):
        pass
    assert names(tmp_path / "out") == ["old"]
    assert names(tmp_path) == ["out"]


@posix
def test_a_full_disk_keeps_the_old_file_and_whole_rows(small_disk):
    """`--save` and reports keep what was there; a table keeps the rows before the disk was full."""
    old, table = small_disk / "old.png", small_disk / "a.csv"
    old.write_bytes(b"precious")
    fill(small_disk, leave=12000)
    with pytest.raises(OutputError, match=r"old\.png cannot be written: the disk is full; make room"):
        write_file(old, bytes(50000))
    assert old.read_bytes() == b"precious"

    def write_until_it_is_full():
        with CsvFile(table) as file:
            while True:
                file.add(analysis(1))

    with pytest.raises(OutputError, match=r"a\.csv cannot be written: the disk is full"):
        write_until_it_is_full()
    assert names(small_disk) == ["a.csv", "filler", "old.png"]
    rows = table_rows(table)
    assert len(rows) > 2
    assert {len(row) for row in rows} == {len(rows[0])}, "a row is cut off"


@posix
def test_a_read_only_folder(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for write in (write_table, lambda path: write_json(path, {})):
        with pytest.raises(OutputError, match=r"a\.csv cannot be written \(Read-only file system\)"):
            write(small_disk / "a.csv")
    with pytest.raises(OutputError, match="run cannot be written"), writing_into(small_disk / "run"):
        raise AssertionError


def test_an_error_about_another_file_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "out.json"):
        (tmp_path / "input.json").read_bytes()
    with pytest.raises(ValueError, match="wrong"), replacing(tmp_path / "out.json"):
        raise ValueError("wrong")
    assert names(tmp_path) == []

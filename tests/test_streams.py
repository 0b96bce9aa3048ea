"""Names and encodings: odd file names, terminals of another encoding, closed streams, Ctrl-C and kill."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_tables import analysis

from sdk import streams
from sdk.bundles.files import FileRecord, check_sizes, file_sha256
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import read_manifest
from sdk.errors import BackendError, IntegrityError
from sdk.results import Analysis
from sdk.runtime.backends.ort import open_session

ROOT = Path(__file__).parents[1]
posix = pytest.mark.skipif(os.name == "nt", reason="file names and signals of POSIX")
LATIN = "b\udcff.jpg"  # the name b"b\xff.jpg", as Python keeps it


def run_python(code, *arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=False, **options)


def test_a_name_that_is_not_utf8_is_readable_everywhere(tmp_path):
    """In JSON and in a table it has escapes; both stay valid UTF-8. The analysis itself keeps the real name."""
    found = analysis(1, source=LATIN, warnings=(f"{LATIN}: the image is damaged",))
    assert found.source == LATIN
    assert Analysis.model_validate_json(found.to_json()).source == r"b\udcff.jpg"
    assert found.to_dict()["warnings"] == [r"b\udcff.jpg: the image is damaged"]
    found.to_csv(tmp_path / "a.csv")
    assert r"b\udcff.jpg," in (tmp_path / "a.csv").read_text(encoding="utf-8")


@posix
def test_outputs_may_have_such_names(tmp_path):
    for name in (LATIN, "12:30.csv", "a b%20.csv"):
        analysis(1).to_csv(tmp_path / name)
        assert (tmp_path / name).read_text().startswith("source,")


@posix
def test_a_runtime_that_needs_utf8_says_so(tmp_path):
    with pytest.raises(BackendError, match="opens only names that are UTF-8; rename the file or its folder"):
        open_session(tmp_path / LATIN)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8", "utf-16"])
def test_every_character_can_be_printed(monkeypatch, encoding):
    """What the terminal's encoding lacks becomes a JSON escape: a document still says the same."""
    content = {"source": "ж→é\U0001f600", "odd": LATIN}
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    streams.prepare_streams()
    sys.stdout.write(json.dumps(content, ensure_ascii=False))
    sys.stdout.flush()
    assert json.loads(written.getvalue().decode(encoding)) == content


@posix
@pytest.mark.parametrize(("closed", "given"), [(0, "<&-"), (1, ">&-"), (2, "2>&-")])
def test_a_closed_stream(tmp_path, closed, given):
    """`2>&-`: messages go neither to stdout nor into the next file that is opened."""
    code = (
        "import os, sys\n"
        "from sdk.cli import main\n"
        "code = main(['rege', '--task', 'au', '--annotations', 'no.json', '--predictions', 'no.json'])\n"
        "first = os.open('next', os.O_CREAT | os.O_WRONLY)\n"
        "print('message', file=sys.stderr, flush=True)\n"
        "os._exit(0 if (code, first > 2) == (1, True) else 9)\n"
    )
    (tmp_path / "run.py").write_text(code)
    done = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" run.py {given}'],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert ("no.json cannot be read" in done.stderr) == (closed != 2)
    assert (tmp_path / "next").read_bytes() == b""


@posix
def test_stdout_on_a_full_disk(tmp_path):
    """`emola ... > file`: one line and exit code 1, also if the content fails only when it is flushed at the end."""
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(tmp_path / "disk")]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by the superuser only")
    try:
        (tmp_path / "disk" / "filler").write_bytes(bytes(4096))
        with (tmp_path / "disk" / "out").open("w") as out:
            done = run_python(
                "import sys; from sdk.cli import main; sys.exit(main(['info']))", stdout=out, stderr=subprocess.PIPE
            )
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path / "disk")], check=True)
    message = b"emola: error: the results cannot be written: No space left on device; check the disk\n"
    assert (done.returncode, done.stderr) == (1, message)


STOPPED = """
import sys, time
from sdk import cli
from sdk.tables import CsvFile
sys.path.insert(0, "tests")
from test_tables import analysis
def run(args):
    with CsvFile(sys.argv[1]) as file:
        file.add(analysis(1))
        print("ready", flush=True)
        time.sleep(600)
class Parser:
    def parse_known_args(self, arguments):
        return type("args", (), {"run": staticmethod(run)}), []
cli._parser = lambda name: Parser()
sys.exit(cli.main(["analyze"]))
"""


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_stopped_command_keeps_its_rows(tmp_path, number, code):
    """Ctrl-C, `kill` and a closed terminal: one line, the rows so far, no temporary file."""
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(tmp_path / "a.csv")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate()
    assert (process.returncode, err.count("\n")) == (code, 1), err
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert len((tmp_path / "a.csv").read_text().splitlines()) > 1


def linked(bundle, blobs, name_of):
    """A copy of the embedded bundle whose files are links."""
    blobs.mkdir(parents=True)
    for path in EMBEDDED.rglob("*"):
        if path.is_file():
            place, blob = bundle / path.relative_to(EMBEDDED), blobs / name_of(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, blob)
            place.symlink_to(os.path.relpath(blob, place.parent))
    return bundle


@posix
def test_a_bundle_of_links_opens(tmp_path):
    """As uv installs it with `--link-mode symlink`, and as Hugging Face's cache keeps it."""
    installed = linked(tmp_path / "site" / "emola-nano", tmp_path / "cache", lambda path: path.name)
    cached = tmp_path / "models--o--n"
    snapshot = linked(cached / "snapshots" / "0123", cached / "blobs", lambda path: file_sha256(path))
    for bundle in (installed, snapshot):
        manifest = read_manifest(bundle)
        assert open_session(bundle / manifest.variants[0].decoder).get_inputs()


@posix
def test_a_link_to_other_content_is_refused(tmp_path):
    bundle, secret = tmp_path / "models--o--n" / "snapshots" / "0123", tmp_path / "secret"
    bundle.mkdir(parents=True)
    (tmp_path / "models--o--n" / "blobs").mkdir()
    secret.write_bytes(b"secret")
    (tmp_path / "models--o--n" / "blobs" / "blob").symlink_to(secret)
    files = {"vision.onnx": FileRecord(size=6, sha256="0" * 64)}
    for target in (secret, "../../blobs/blob", "../../../secret"):
        (bundle / "vision.onnx").unlink(missing_ok=True)
        (bundle / "vision.onnx").symlink_to(target)
        with pytest.raises(IntegrityError, match="is a link that leaves the bundle"):
            check_sizes(bundle, files)


def test_files_with_colons_are_no_protocols(tmp_path):
    """Of FFmpeg: `12:30.mp4` is read and written; and what is named like one of its protocols, too."""
    av = pytest.importorskip("av")
    import numpy as np

    from sdk.frames import read_frames
    from sdk.recording import AnnotatedVideo
    from sdk.results import FrameInfo

    for name in ("12:30.mp4", "pipe:0.mp4", "concat:a|b.mp4"):
        with AnnotatedVideo(tmp_path / name) as video:
            video.add(np.zeros((64, 64, 3), np.uint8), analysis(0, frame=FrameInfo(index=0, time_s=0, dropped=0)))
        assert len(list(read_frames(tmp_path / name))) == 1, av.__version__
    assert len(list(tmp_path.iterdir())) == 3

"""`emola batch` reads an object store: moto's S3 server, s3fs through fsspec. `make test-batch` installs both."""

import pytest
from test_jobs import QUICK, table

from sdk.cli import main
from sdk.commands.demo import PICTURES
from sdk.jobs.inputs import find_inputs

pytest.importorskip("s3fs", reason="s3fs is not installed: make test-batch installs it")
server = pytest.importorskip("moto.server", reason="moto is not installed: make test-batch installs it")
pytestmark = pytest.mark.filterwarnings("ignore")  # moto's and s3fs's own


@pytest.fixture
def bucket(monkeypatch):
    """A bucket with 30 objects, addressed as an administrator would: by AWS's own variables."""
    import boto3
    import s3fs

    monkeypatch.delenv("AWS_PROFILE", raising=False)
    store = server.ThreadedMotoServer(port=0)
    store.start()
    host, port = store.get_host_and_port()
    variables = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "DEFAULT_REGION": "us-east-1"}
    for name, value in {**variables, "ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="album")
    picture = (PICTURES / "rendered.jpg").read_bytes()
    objects = {f"set/{index:02}.jpg": picture + bytes([index]) for index in range(26)}
    objects |= {"set/empty.jpg": b"", "set/broken.jpg": b"no picture", "set/notes.txt": b"x"}
    objects["list.csv"] = b"path\nset/03.jpg\ns3://album/set/gone.jpg\ns3://nowhere/a.jpg\n"
    for name, content in objects.items():
        client.put_object(Bucket="album", Key=name, Body=content)
    yield client
    s3fs.S3FileSystem.clear_instance_cache()
    store.stop()


def test_a_bucket_is_read(bucket, tmp_path):
    assert find_inputs(["s3://album/set/0*.jpg"]) == [f"s3://album/set/0{index}.jpg" for index in range(10)]
    out = tmp_path / "out.parquet"
    words = ["batch", "s3://album/set", "s3://album/list.csv", "--out", str(out), *QUICK]
    assert main(words) == 0
    found = table(out)
    names = [*[f"{index:02}.jpg" for index in range(26)], "broken.jpg", "empty.jpg"]
    assert [row["source"] for row in found[:28]] == [f"s3://album/set/{name}" for name in names]
    assert [row["source"] for row in found[28:]] == [
        "s3://album/set/03.jpg",
        "s3://album/set/gone.jpg",
        "s3://nowhere/a.jpg",
    ]
    failed = {row["source"].rpartition("/")[2]: row["error"] for row in found if row["status"] == "failed"}
    assert set(failed) == {"broken.jpg", "empty.jpg", "gone.jpg", "a.jpg"}
    assert "does not exist" in failed["gone.jpg"]
    assert found[3]["sha256"] == found[28]["sha256"]


def test_an_empty_prefix_and_a_missing_bucket(bucket, tmp_path, capsys):
    for source in ("s3://album/other", "s3://nowhere/set"):
        assert main(["batch", source, "--out", str(tmp_path / "out.parquet")]) == 1
        line = capsys.readouterr().err
        assert line.startswith(f"emola: error: {source}")
        assert line.count("\n") == 1


def test_a_video_is_copied_and_removed(bucket, tmp_path, astronaut, monkeypatch):
    pytest.importorskip("av")
    import tempfile

    from clips import write_clip

    clip = write_clip(tmp_path / "clip.mp4", [astronaut[:320, 60:380].copy()] * 3)
    bucket.put_object(Bucket="album", Key="clip.mp4", Body=clip.read_bytes())
    bucket.put_object(Bucket="album", Key="cut.mp4", Body=clip.read_bytes()[:200])
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    words = ["s3://album/clip.mp4", "s3://album/cut.mp4", "--out", str(tmp_path / "out.parquet"), "--task", "emotion"]
    assert main(["batch", *words, "--max-tokens", "3"]) == 0
    found = table(tmp_path / "out.parquet")
    assert [(row["source"], row["frame"]) for row in found] == [
        *[("s3://album/clip.mp4", index) for index in range(3)],
        ("s3://album/cut.mp4", None),
    ]
    assert "s3://album/cut.mp4" in found[3]["error"]
    assert str(tmp_path) not in found[3]["error"]
    assert list((tmp_path / "temporary").iterdir()) == []

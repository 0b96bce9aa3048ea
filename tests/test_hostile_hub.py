"""A hub that is not the hub, or means harm: the cached bundle still opens, everything else is one clear BundleError."""

import json
import logging
import shutil
import sys

import pytest
from hostile_server import hostile_server, whole
from hub_server import COMMIT, HubServer

from sdk.bundles import hub, remote
from sdk.bundles.hub import resolve_bundle
from sdk.errors import BundleNotFoundError, DownloadError
from sdk.web import client

pytest.importorskip("httpx")
pytest.importorskip("filelock")

PORTAL = b"<html><title>Welcome to our hotel</title>"
OTHER = "f" * 40


def described(**content):
    return whole(json.dumps({"id": "owner/name", **content}).encode())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache; pauses between attempts take no time."""
    monkeypatch.setenv("EMOLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache" / "owner--name"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """emola-nano as "owner/name"."""
    with HubServer(shutil.copytree(hub.EMBEDDED, tmp_path / "repository")) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def keep(cache, reference=COMMIT):
    """Make what an earlier download leaves; returns its folder."""
    (cache / COMMIT).mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(reference)
    return cache / COMMIT


ANSWERS = {
    "captive portal": whole(PORTAL, Content_Type="text/html"),
    "portal that redirects": whole(b"", 302, Location="file:///login"),
    "portal that asks to log in": whole(PORTAL, 511),
    "redirect to nowhere": whole(b"", 302),
    "redirect to itself": whole(b"", 302, Location="/api/models/owner/name/revision/main"),
    "no commit": described(),
    "empty commit": described(sha=""),
    "parent folder": described(sha=".."),
    "path": described(sha="../../" + "a" * 34),
    "commit and a line": described(sha=COMMIT + "\n"),
    "number": described(sha=1),
    "list": whole(b"[]"),
    "nested": whole(b"[" * 100_000),
    "digits": whole(b'{"sha": ' + b"9" * 5000 + b"}"),
    "no text": whole(b"\xff\xfe\x00"),
    "nothing": b"",
    "endless": whole(b" " * (17 << 20)),
    "forbidden": whole(PORTAL, 403),
    "gone": whole(b"", 404),
    "busy": whole(b"busy", 429, Retry_After=999999999),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_who_does_not_know_the_commit_breaks_no_cached_bundle(answer, cache, monkeypatch, caplog):
    """Without an earlier download: one clear line, no folder. With one: that folder, and a warning with the reason."""
    with hostile_server(lambda request: iter([answer])) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        with pytest.raises(BundleNotFoundError, match="no earlier download of that name") as caught:
            resolve_bundle("owner/name")
        assert str(caught.value).isprintable()
        assert not cache.exists()
        folder = keep(cache)
        assert resolve_bundle("owner/name") == folder
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"using {folder}" in record.getMessage()


def test_a_portal_is_named(monkeypatch):
    with hostile_server(lambda request: iter([whole(PORTAL)])) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        with pytest.raises(BundleNotFoundError, match=r"Welcome to our hotel.*is this the login page of a network\?"):
            resolve_bundle("owner/name")


def test_a_commit_that_was_asked_for_is_the_one_that_comes(monkeypatch):
    """Who names a commit trusts that one only."""
    with hostile_server(lambda request: iter([described(sha=OTHER)])) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        with pytest.raises(BundleNotFoundError, match=f"answers with another commit, {OTHER}"):
            resolve_bundle(f"owner/name@{COMMIT}")


@pytest.mark.parametrize("reference", ["", "..", "../../elsewhere", "\x00", "é", OTHER])
def test_a_damaged_reference_in_the_cache_is_no_folder(reference, cache):
    keep(cache, reference)
    with pytest.raises(BundleNotFoundError, match="no earlier download"):
        resolve_bundle("owner/name", offline=True)


def test_a_portal_in_the_middle_of_a_download(server, cache):
    """Some files are there, then the network asks to log in: DownloadError. Afterwards only the others are sent."""
    server.other = {"reference.npz": PORTAL}
    with pytest.raises(DownloadError, match=r"reference\.npz: expected \d+ bytes, the server announces 41.*kept"):
        resolve_bundle("owner/name")
    assert not (cache / COMMIT).exists()
    before, server.other = dict(server.fetched), {}
    assert resolve_bundle("owner/name") == cache / COMMIT
    assert [name for name in before if server.fetched[name] > before[name]] == ["reference.npz"]


@pytest.mark.parametrize("name", ["manifest.json", "vision.onnx"])
def test_a_new_version_that_cannot_be_downloaded_leaves_the_old_one(name, server, cache, caplog):
    keep(cache)
    server.commit = OTHER
    server.other = {name: PORTAL}
    assert resolve_bundle("owner/name") == cache / COMMIT
    assert "the download stopped" in caplog.text
    server.other = {}
    assert resolve_bundle("owner/name") == cache / OTHER
    assert resolve_bundle("owner/name", offline=True) == cache / OTHER


def test_only_what_the_manifest_lists_is_fetched(server, cache):
    """A file of a terabyte beside the bundle costs nothing."""
    (server.folder / "checkpoint.bin").write_bytes(b"not of the bundle")
    assert not (resolve_bundle("owner/name") / "checkpoint.bin").exists()
    assert "checkpoint.bin" not in server.fetched


def test_a_manifest_without_end(server, cache):
    server.other = {"manifest.json": b"{" + b" " * (17 << 20)}
    with pytest.raises(DownloadError, match="sends more than the 16777216 bytes"):
        resolve_bundle("owner/name")


def test_a_bundle_that_is_larger_than_the_disk(server, cache, monkeypatch):
    """Nothing but the manifest is fetched."""
    usage = shutil.disk_usage("/")._replace(free=1 << 20)
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DownloadError, match=r"needs 0\.0 GB more, .* has 0\.0 GB left; free space, or set EMOLA_CACHE"):
        resolve_bundle("owner/name")
    assert set(server.fetched) == {"manifest.json"}


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EMOLA_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="cannot write to .*set EMOLA_CACHE to another folder"):
        resolve_bundle("owner/name")


def test_the_token_of_the_environment_or_of_the_login(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    resolve_bundle("owner/name")
    (tmp_path / "token").write_text("hf_login\n")
    resolve_bundle("owner/name")
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    resolve_bundle("owner/name")
    assert server.tokens == {None, "Bearer hf_login", "Bearer hf_environment"}
    monkeypatch.setenv("HF_TOKEN", "hf_é")
    monkeypatch.setenv("EMOLA_CACHE", str(tmp_path / "empty"))
    with pytest.raises(BundleNotFoundError, match="HF_TOKEN contains characters that no token has"):
        resolve_bundle("owner/name")


@pytest.mark.parametrize("endpoint", ["file:///srv/models", "huggingface.co", "http://[", "http://127.0.0.1:99999"])
def test_a_hub_at_no_address(endpoint, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(BundleNotFoundError, match="no earlier download"):
        resolve_bundle("owner/name")


@pytest.mark.parametrize("name", ["owner/a..b", "owner/name@a/../b", "owner--x/name"])
def test_names_that_no_hub_has(name, cache):
    """They would leave the cache, or share a folder there with another name."""
    with pytest.raises(BundleNotFoundError, match="no hub name"):
        resolve_bundle(name)
    assert not cache.parent.exists()


def test_a_socks_proxy_without_its_package(server, cache, monkeypatch, caplog):
    """One clear line; what was downloaded before works."""
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(BundleNotFoundError, match=r"SOCKS proxy: .*pip install 'httpx\[socks\]'"):
        resolve_bundle("owner/name")
    folder = keep(cache)
    assert resolve_bundle("owner/name") == folder
    assert "SOCKS proxy" in caplog.text
    assert server.tokens == set()

"""Bundles by name, from a local server with the hub's endpoints: resumed, verified once, offline, two processes."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from hub_server import COMMIT, HubServer

from sdk import Analyzer
from sdk.bundles import hub
from sdk.bundles.hub import resolve_bundle
from sdk.bundles.manifest import read_manifest
from sdk.cache import cache_folder
from sdk.errors import BundleNotFoundError, DownloadError, FormatError, IntegrityError
from sdk.web import client

pytest.importorskip("httpx")
pytest.importorskip("filelock")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """emola-nano as "owner/name", and an empty cache."""
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    with HubServer(shutil.copytree(hub.EMBEDDED, tmp_path / "repository")) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("EMOLA_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


@pytest.fixture
def embedded(tmp_path):
    return tmp_path / "no-embedded"


def test_a_name_becomes_a_verified_folder_once(server, embedded, monkeypatch):
    """Every file is fetched once and hashed once; the second time costs one question to the hub and no hash."""
    folder = resolve_bundle("owner/name", embedded)
    assert folder.name == COMMIT
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == server.files()
    assert set(server.fetched.values()) == {1}
    monkeypatch.setattr(hub, "check_hashes", lambda *args: pytest.fail("hashed again"))
    assert resolve_bundle("owner/name", embedded) == resolve_bundle(f"owner/name@{COMMIT}", embedded) == folder
    assert set(server.fetched.values()) == {1}


def test_engines_of_others_are_not_fetched(server, embedded, tmp_path):
    """A plan is code for one GPU that no hash of the manifest covers: it is built on the target, not downloaded."""
    (tmp_path / "repository/engines/sm_90").mkdir(parents=True)
    (tmp_path / "repository/engines/sm_90/vision.plan").write_bytes(b"code")
    assert not (resolve_bundle("owner/name", embedded) / "engines").exists()
    assert "engines/sm_90/vision.plan" in set(server.files()) - set(server.fetched)


def test_offline_uses_what_was_downloaded(server, embedded, monkeypatch):
    """offline=True, HF_HUB_OFFLINE and an unreachable hub all use the cache; what is not there is one clear error."""
    with pytest.raises(
        BundleNotFoundError, match="no folder owner/name, and no earlier download .*offline.*while online"
    ):
        Analyzer("owner/name", offline=True)
    folder = resolve_bundle("owner/name", embedded)
    server.refuse = 500
    assert resolve_bundle("owner/name", embedded, offline=True) == folder
    assert resolve_bundle("owner/name", embedded) == folder, "the hub is down, the cache is not"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve_bundle("owner/name", embedded) == folder
    with pytest.raises(BundleNotFoundError, match=r"no earlier download .*\(other\)"):
        resolve_bundle("owner/name@other", embedded)


def test_a_download_cut_in_the_middle_goes_on(server, embedded):
    """The decoder's weights break off for good: DownloadError. The next try fetches what is missing, and only that."""
    cut = "decoder/gptq-int4.onnx.data"
    server.cut = {cut: 100}
    with pytest.raises(DownloadError, match="the download stopped.*complete files are kept"):
        resolve_bundle("owner/name", embedded)
    assert not (cache_folder() / "owner--name" / COMMIT).exists()
    server.cut = {}
    before = dict(server.fetched)
    folder = resolve_bundle("owner/name", embedded)
    again = [name for name, count in server.fetched.items() if count > before.get(name, 0) and before.get(name)]
    assert again == [cut]
    assert read_manifest(folder).name == read_manifest(server.folder).name


def test_a_connection_that_breaks_costs_no_byte(server, embedded):
    """The next attempt continues where the connection broke: each byte is sent once."""
    server.cut = {"vision.onnx": 2, "decoder/embeddings.npy": 1}
    resolve_bundle("owner/name", embedded)
    assert server.fetched["vision.onnx"] == 3
    assert server.sent == sum((server.folder / name).stat().st_size for name in server.files())


def test_a_hash_mismatch_is_found_and_forgotten(server, embedded):
    """One flipped bit on the server: IntegrityError, nothing stays; repaired, the same name works."""
    path = server.folder / "vision.onnx"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    good, _ = path.read_bytes(), path.write_bytes(content)
    with pytest.raises(IntegrityError, match="unusable and was removed.*SHA-256 differs"):
        resolve_bundle("owner/name", embedded)
    assert [p.name for p in (cache_folder() / "owner--name").iterdir() if p.is_dir()] == []
    path.write_bytes(good)
    assert resolve_bundle("owner/name", embedded).is_dir()


def test_what_is_no_bundle_is_refused(server, embedded):
    (server.folder / "manifest.json").write_text(json.dumps({"format": 7}))
    with pytest.raises(FormatError, match="bundle format 7"):
        resolve_bundle("owner/name", embedded)


def test_unknown_names(server, embedded, tmp_path):
    with pytest.raises(BundleNotFoundError, match="no such repository or revision.*HTTP 404"):
        resolve_bundle("owner/nothing", embedded)
    with pytest.raises(BundleNotFoundError, match="no such repository or revision"):
        resolve_bundle("owner/name@v9", embedded)
    with pytest.raises(BundleNotFoundError, match=r"no folder bundles/emola--int4, and no hub name: "):
        resolve_bundle("bundles/emola--int4", embedded)
    with pytest.raises(BundleNotFoundError, match="no embedded bundle"):
        resolve_bundle(None, embedded)
    assert resolve_bundle(tmp_path, embedded) == tmp_path


def test_two_processes_at_once_download_once(server, tmp_path):
    code = """
from pathlib import Path
from sdk.bundles.hub import resolve_bundle
print(resolve_bundle("owner/name", Path("none")))
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(2)
    ]
    folders = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(folders) == 1
    assert set(server.fetched.values()) == {1}

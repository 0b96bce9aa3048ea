"""`emola serve`: its options, and what they do."""

import socket

import uvicorn
from starlette.testclient import TestClient
from test_server import upload

from sdk.cli import main


def test_wrong_options_of_the_command(capsys, tmp_path):
    empty = tmp_path / "key"
    empty.write_text("\n")
    for words, message in (
        (["--seats", "0"], "--seats must be at least 1"),
        (["--port", "70000"], "--port is a number"),
        (["--api-key-file", str(empty)], "is empty"),
        (["--api-key-file", str(tmp_path / "none")], "No such file"),
        (["--deadline", "nan"], "--deadline must be"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--memory-limit", "nan"], "--memory-limit must be greater than 0, not nan"),
        (["--memory-limit", "14", "--seats", "4"], "4 seats need about 29 MB"),
    ):
        assert main(["serve", *words]) == 2
        assert message in capsys.readouterr().err


def test_a_port_in_use_is_one_error_with_advice(capfd):
    """Uvicorn alone reports a complete startup, prints the number of the error and ends with exit code 3."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--offline", "--port", str(port)]) == 2
    error = capfd.readouterr().err.splitlines()
    assert any("address already in use" in line for line in error[:-1])
    assert error[-1].startswith(f"emola: error: --host 127.0.0.1 --port {port}: the server cannot listen there")
    assert "--port (0 takes a free one)" in error[-1]


def test_options_of_faces_and_memory_reach_the_model(monkeypatch):
    """No face is large enough; a face is kept for further questions where memory is left for it."""

    def ask(app, **_):
        with TestClient(app) as client:
            statuses.append(client.post("/v1/analyze", **upload()).json()["status"])
            held.append(client.get("/metrics").text.split("\nemola_cache_bytes ")[1].split("\n")[0])

    statuses, held = [], []
    monkeypatch.setattr(uvicorn, "run", ask)
    for words in (["--min-face", "1000"], ["--memory-limit", "20"], ["--memory-limit", "14"]):
        assert main(["serve", "--offline", *words]) == 0
    assert statuses == ["no_face", "ok", "ok"]
    assert [float(size) for size in held] == [0.0, 2359296.0, 0.0]

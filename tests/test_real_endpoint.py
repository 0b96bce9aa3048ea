"""`emola evaluate --endpoint` and a server that this project did not write: `transformers serve` with a tiny LLaVA."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import GOLDEN
from training import ONE_THREAD

pytest.importorskip("torch")
pytest.importorskip("transformers.cli.serve", reason="this version of transformers has no server")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("openai")

from tiny_llava import write_tiny_llava

from sdk.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]  # of transformers about itself


@contextmanager
def transformers_serve(model: Path):
    """The address of a server with one model, until the block ends."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = ["serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    code = "from transformers.cli.transformers import main; main()"
    log = model.parent / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=output, stderr=output, env=ONE_THREAD)
        try:
            while not _answers(f"http://127.0.0.1:{port}/health"):
                assert process.poll() is None, log.read_text()
                time.sleep(1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def test_a_served_llava_is_evaluated(tmp_path):
    """Two faces reach the model: each gets the answer that transformers itself gives to picture and question."""
    model, answers = write_tiny_llava(tmp_path / "llava", max_new_tokens=5)
    rows = json.loads((GOLDEN / "data/FABAInstruct/train/train_anno.json").read_text())[:2]
    content = [{"image": row["image"], "landmark": "none.npy", "label": 0, "gpt4": "A happy face."} for row in rows]
    (tmp_path / "eval.json").write_text(json.dumps(content))
    files = ("--data", tmp_path / "eval.json", "--root", GOLDEN / "data", "--output", tmp_path / "run")
    with transformers_serve(model) as url:
        options = (
            "--endpoint",
            url,
            "--model",
            model,
            "--task",
            "emotion",
            "--max-new-tokens",
            "5",
            "--batch-size",
            "1",
        )
        assert main([*map(str, ("evaluate", *options, *files))]) == 0
    found = [json.loads(line) for line in (tmp_path / "run/predictions.jsonl").read_text().splitlines()]
    assert not any("refused" in row for row in found)
    assert [row["prediction"] for row in found] == [answers(GOLDEN / "data" / row["image"]) for row in rows]
    assert "official" in json.loads((tmp_path / "run/scores.json").read_text())

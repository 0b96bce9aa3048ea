"""vLLM itself runs the decoder: greedy tokens equal ours, from its server and in this process.

vLLM pins its own torch, so `make test-vllm` runs this file in an environment of its own, with the build for CPUs.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pytest

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GB; by default half of the memory
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
if not find_spec("vllm"):
    pytest.skip("vLLM is not installed; `make test-vllm` has an environment for it", allow_module_level=True)

from llama_folders import weights_of_graph, write_llama

from export.quantise.autogptq import GptqWeights
from sdk import Analyzer
from sdk.bundles.files import FileRecord, file_sha256
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import MANIFEST, Variant, read_manifest
from sdk.commands.demo import PICTURES
from sdk.errors import BackendError
from sdk.runtime.backends.gptq_cuda.open import open_decoder
from sdk.runtime.backends.interface import Decoder, Sampling
from sdk.runtime.backends.select import open_backend
from sdk.runtime.backends.vllm import local as in_process
from sdk.runtime.backends.vllm.local import LocalVllm
from sdk.runtime.generate import Generation
from sdk.runtime.verify import Reference

EAGER = {"enforce_eager": True, "block_size": 32}  # compilation takes minutes, and the prompts here are short
FACES = sorted(PICTURES.glob("*.jpg"))


def documented() -> list[str]:
    """The options of `vllm serve` in docs/serving.md, except its port and its length."""
    page = (Path(__file__).parents[1] / "docs/serving.md").read_text(encoding="utf-8").replace("\\\n", " ")
    line = re.search(r"^vllm serve \S+ (.*)$", page, re.MULTILINE)[1]
    return shlex.split(line.replace("--port 8001", "").replace("--max-model-len 2048", ""))


@contextmanager
def vllm_serve(folder: Path, *options: str):
    """vLLM's server on loopback; yields its address. `vllm serve` of vllm-cpu 0.32 does not find its own version."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), *documented(), *options]
    process = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    try:
        while not _is_healthy(url):
            assert process.poll() is None, "the server ended"
            time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait()


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """emola-nano with its own GPTQ values, in float16."""
    folder = tmp_path_factory.mktemp("nano") / "decoder"
    write_llama(folder, weights_of_graph(EMBEDDED), read_manifest(EMBEDDED).geometry)
    with vllm_serve(folder, "--max-model-len", "512", "--enforce-eager", "--block-size", "32") as url:
        yield url


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """emola-nano without vLLM, and without its answer language, which vLLM does not know."""
    bundle = tmp_path_factory.mktemp("plain") / "bundle"
    shutil.copytree(EMBEDDED, bundle)
    manifest = read_manifest(bundle).model_copy(update={"language": None})
    (bundle / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    with Analyzer(bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def remote(server):
    with Analyzer(vllm=server) as opened:
        yield opened


def metric(server: str, name: str) -> float:
    return float(re.search(rf"^vllm:{name}{{.*}} (\S+)$", httpx.get(f"{server}/metrics").text, re.MULTILINE)[1])


def test_answers_of_the_embedded_model_are_equal(remote, plain):
    """Both tasks of both pictures, one by one and together: the same words as without vLLM."""
    expected = [plain.analyze(picture).faces for picture in FACES]
    assert all(expected)
    assert [remote.analyze(picture).faces for picture in FACES] == expected
    together = remote.analyze_batch(FACES * 4, batch_size=8)
    assert [analysis.faces for analysis in together] == expected * 4


def test_label_scores_agree(remote, plain):
    """Probabilities of the emotions within 0.02."""
    for picture in FACES:
        found, expected = (each.analyze(picture, tasks=("labels",)).faces[0].emotion for each in (remote, plain))
        assert found.scores == pytest.approx(expected.scores, abs=0.02)


def test_a_second_question_reads_the_face_from_the_prefix_cache(server, remote):
    before = metric(server, "prefix_cache_hits_total")
    remote.ask(FACES[0], "emotion")
    remote.ask(FACES[0], "action_units")
    assert metric(server, "prefix_cache_hits_total") >= before + 64


def test_an_answer_that_nobody_reads_is_ended(server, remote):
    """vLLM runs no request after the iterator is closed."""
    engine, rows = remote.pipeline.backend.decoder._engine, remote.pipeline.backend.decoder.embed([1] * 20)
    tokens = engine.tokens(rows, Sampling(), (), 480)
    next(tokens)
    tokens.close()
    while metric(server, "num_requests_running"):
        time.sleep(0.1)
    assert metric(server, "generation_tokens_total") < 10_000


def answers(bundle: Path, engine: LocalVllm, decoder: Decoder):
    """For every question of the bundle's reference: rows of the prompt, 64 greedy tokens of vLLM, and of a decoder."""
    manifest = read_manifest(bundle)
    reference, prompt = Reference.load(bundle / manifest.reference), manifest.prompt
    for face in reference.rows:
        prefix = np.concatenate([decoder.embed(prompt.prefix_ids), face])
        for task in reference.tasks:
            ids, cache = prompt.questions[task].token_ids, decoder.new_cache(len(prefix) + 128)
            decoder.prefill(cache, prefix)
            plain = Generation(decoder, cache, ids, stop_ids=(), max_new_tokens=64)
            rows = np.concatenate([prefix, decoder.embed(ids)])
            yield rows, list(engine.tokens(rows, Sampling(), (), 64)), list(plain)


@contextmanager
def local(folder: Path, bundle: Path, **options):
    engine = LocalVllm(folder, read_manifest(bundle).geometry.vocabulary, 1024, **EAGER, **options)
    try:
        yield engine
    finally:
        engine.close()


def test_the_golden_checkpoint_in_float32(bundle, tmp_path):
    """In this process: 64 tokens of every answer equal ours; log probabilities agree within 1e-3.

    The golden heads of 16 values become 64, because vLLM's kernels for CPUs take 32 or more.
    """
    folder, geometry = bundle("trained"), read_manifest(bundle("trained")).geometry
    write_llama(tmp_path / "llama", weights_of_graph(folder), geometry, head_size=64)
    decoder = open_backend(folder, read_manifest(folder), "cpu").decoder
    with local(tmp_path / "llama", folder, dtype="float32") as engine:
        prompts, found, expected = zip(*answers(folder, engine, decoder), strict=True)
        assert found == expected
        rows = prompts[-1]
        logits = decoder.extend(decoder.new_cache(1024), rows)[-1].astype(np.float64)
        logits -= np.log(np.exp(logits - logits.max()).sum()) + logits.max()
        np.testing.assert_allclose(engine.log_probabilities(rows), logits, atol=1e-3)


def test_the_folder_of_an_export(gptq_bundle, tmp_path):
    """The AutoGPTQ folder that `--keep-gptq` writes, in float16, against our decoder of the same folder in float32.

    Tokens are equal up to a near tie: there, the two tokens are 0.05 nats apart in float32 at most.
    """
    geometry, folder = read_manifest(gptq_bundle).geometry, gptq_bundle / "decoder/gptq"
    write_llama(tmp_path / "llama", GptqWeights(folder), geometry, head_size=64)
    decoder, equal = open_decoder(folder, gptq_bundle / "decoder/embeddings.npy", geometry, "cpu"), 0
    with local(tmp_path / "llama", gptq_bundle) as engine:
        for rows, found, expected in answers(gptq_bundle, engine, decoder):
            same = next((at for at in range(64) if found[at] != expected[at]), 64)
            equal += same
            if same < 64:
                read = np.concatenate([rows, decoder.embed(expected[:same])])
                logits = decoder.extend(decoder.new_cache(1024), read)[-1]
                assert logits[expected[same]] - logits[found[same]] < 0.05
    assert equal >= 64, f"{equal} tokens before the first difference, in all answers together"


def test_a_bundle_opens_vllm_in_this_process(plain, tmp_path, monkeypatch):
    """`Analyzer(vllm="local")` reads the GPTQ folder of the bundle: the words are those of the bundle without vLLM."""
    bundle = tmp_path / "bundle"
    shutil.copytree(EMBEDDED, bundle)
    manifest = read_manifest(bundle)
    with pytest.raises(BackendError, match="--keep-gptq"):
        Analyzer(bundle, vllm="local")
    folder = write_llama(bundle / "decoder/gptq", weights_of_graph(bundle), manifest.geometry)
    files = {
        path.relative_to(bundle).as_posix(): FileRecord(size=path.stat().st_size, sha256=file_sha256(path))
        for path in folder.iterdir()
    }
    variant = Variant(name="gptq", backend="gptq_cuda", precision="int4", decoder="decoder/gptq/config.json")
    parts = {"files": {**manifest.files, **files}, "variants": (*manifest.variants, variant)}
    (bundle / MANIFEST).write_text(manifest.model_copy(update=parts).to_json(), encoding="utf-8")
    monkeypatch.setattr(in_process, "LocalVllm", partial(LocalVllm, **EAGER))
    with Analyzer(bundle, vllm="local") as analyzer:
        assert [analyzer.analyze(picture).faces for picture in FACES] == [plain.analyze(p).faces for p in FACES]
        assert "".join(analyzer.stream(FACES[0], "emotion")) == "".join(plain.stream(FACES[0], "emotion"))

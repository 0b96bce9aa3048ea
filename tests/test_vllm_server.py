"""A decoder behind vLLM's completions API: what is sent, what is read, and what is refused.

A server of the tests stands in for vLLM, so these tests run everywhere; tests/test_vllm.py runs vLLM itself.
"""

import base64
import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from subprocess import run
from threading import Event

import httpx
import numpy as np
import pytest
from test_server import served
from vllm_stand_in import stand_in

from sdk import Analyzer
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import MANIFEST, read_manifest
from sdk.cli import main
from sdk.commands.demo import PICTURES
from sdk.errors import BackendError, CancelledError, DependencyError, TaskError
from sdk.runtime.backends import ort
from sdk.runtime.backends.interface import Sampling
from sdk.runtime.backends.vllm.server import VllmServer
from sdk.runtime.backends.vllm.tensor_file import tensor_file
from sdk.runtime.clock import Clock
from sdk.runtime.generate import Generation
from sdk.server.app import Settings
from sdk.server.seats import Limits

torch = pytest.importorskip("torch")
FACES = [PICTURES / "astronaut.jpg", PICTURES / "rendered.jpg"]


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    """The embedded bundle without its answer language: vLLM chooses tokens freely."""
    folder = shutil.copytree(EMBEDDED, tmp_path_factory.mktemp("free") / "bundle")
    manifest = read_manifest(folder).model_copy(update={"language": None})
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def plain(free):
    with Analyzer(free) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(plain):
    with stand_in(plain.pipeline.backend.decoder) as running:
        yield running


@pytest.fixture(scope="module")
def remote(server, free):
    with Analyzer(free, vllm=server[0]) as opened:
        yield opened


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_torch_reads_the_file(dtype, order):
    """With weights_only, as vLLM reads it: the same type, shape and bits."""
    rows = np.asarray(np.random.default_rng(0).standard_normal((577, 64)).astype(dtype), order=order)
    found = torch.load(BytesIO(tensor_file(rows)), weights_only=True)
    assert found.numpy().dtype == dtype
    np.testing.assert_array_equal(found.numpy(), rows)


def test_neither_torch_nor_vllm_is_imported(server):
    """A process that decodes through a server has no torch."""
    code = (
        "import sys; from sdk import Analyzer\n"
        f"Analyzer(vllm={server[0]!r}).ask({str(FACES[0])!r}, 'emotion')\n"
        "sys.exit(bool({'torch', 'vllm'} & set(sys.modules)))"
    )
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def test_answers_equal_those_of_the_bundle(remote, plain):
    """Both tasks and label scores of two pictures, one by one and together."""
    found = [remote.analyze(picture, tasks=("emotion", "action_units", "labels")) for picture in FACES]
    expected = [plain.analyze(picture, tasks=("emotion", "action_units", "labels")) for picture in FACES]
    for ours, other in zip(found, expected, strict=True):
        assert [face.emotion.description for face in ours.faces] == [face.emotion.description for face in other.faces]
        assert [face.action_units for face in ours.faces] == [face.action_units for face in other.faces]
        for face, same in zip(ours.faces, other.faces, strict=True):
            assert face.emotion.scores == pytest.approx(same.emotion.scores, abs=0.02)
        assert ours.model.backend == "vllm"
    together = remote.analyze_batch(FACES * 3, tasks=("emotion",), batch_size=3)
    alone = [plain.analyze(picture, tasks=("emotion",)).faces for picture in FACES] * 3
    assert [analysis.faces for analysis in together] == alone


def test_the_http_server_decodes_with_vllm(remote, plain):
    """`emola serve --engine vllm` with four seats: eight requests at once get the answers of the bundle."""
    pictures = [path.read_bytes() for path in FACES] * 4
    expected = [json.loads(plain.analyze(picture).to_json())["faces"] for picture in pictures[:2]] * 4
    with served(remote, Settings(Limits(seats=4))) as address, ThreadPoolExecutor(8) as clients:

        def ask(picture):
            return httpx.post(f"{address}/v1/analyze", files={"image": picture}, timeout=600).json()["faces"]

        assert list(clients.map(ask, pictures)) == expected


def test_what_is_sent(server, remote, plain):
    """The rows of the prompt in float16, and every setting that a server may have another default for."""
    address, side = server
    engine = VllmServer(f"{address}/v1", 1024)
    rows = plain.pipeline.backend.decoder.embed([1, 5, 9])
    list(engine.tokens(rows, Sampling(0.7, 0.9, 3), (2, 17), 4))
    body = dict(side.requests[-1])
    sent = torch.load(BytesIO(base64.b64decode(body.pop("prompt_embeds"))), weights_only=True)
    np.testing.assert_array_equal(sent.numpy(), rows.astype(np.float16))
    assert body == {
        "model": "decoder",
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 3,
        "stop_token_ids": [2, 17],
        "max_tokens": 4,
        "stream": True,
        "top_k": 0,
        "min_p": 0,
        "repetition_penalty": 1,
        "ignore_eos": True,
        "return_token_ids": True,
    }


def test_limits_of_an_answer_are_those_of_the_bundle(remote, plain):
    for limit in (1, 7):
        found, expected = (each.analyze(FACES[0], max_new_tokens=limit) for each in (remote, plain))
        assert found.status == expected.status == "truncated"
        assert [face.emotion.description for face in found.faces] == [
            face.emotion.description for face in expected.faces
        ]


def test_an_answer_may_fill_all_positions(server, free, plain):
    """A server with no more positions than the bundle needs: an answer that is never complete is cut off, no error."""
    address, side = server
    side.longest = plain.pipeline.capacity
    with Analyzer(free, vllm=address) as analyzer:
        decoder = analyzer.pipeline.backend.decoder
        cache = decoder.new_cache(analyzer.pipeline.capacity)
        decoder.prefill(cache, decoder.embed([1] * (cache.capacity - 12)))
        generation = Generation(decoder, cache, [5, 9], stop_ids=(), max_new_tokens=cache.capacity - cache.length - 2)
        assert len(list(generation)) == 10
        assert generation.truncated
    side.longest = 4096


def test_the_encoders_keep_what_was_chosen(server, free, monkeypatch):
    """The number of threads is theirs, too; a second runtime for the decoder is refused."""
    found, original = [], ort.OrtEncoder

    def encoder(path, threads, *arguments, **options):
        found.append(threads)
        return original(path, threads, *arguments, **options)

    monkeypatch.setattr(ort, "OrtEncoder", encoder)
    Analyzer(free, vllm=server[0], threads=1).close()
    assert found == [1, 1]
    with pytest.raises(BackendError, match="OpenVINO and vLLM cannot both decode"):
        Analyzer(free, vllm=server[0], device="openvino")


def test_a_cancelled_answer_ends_the_request(server, remote):
    """The connection is closed: the server stops within a few tokens of a long answer."""
    pipeline, cancel = remote.pipeline, Event()
    (crop, _), *_ = remote.examiner.find(np.full((64, 64, 3), 127, np.uint8), "aligned", Clock())
    with pipeline.encode(crop, Clock()) as face:
        generation = pipeline.generate(face, "emotion", sampling=Sampling(1.0), cancel=cancel)
        next(generation)
        cancel.set()
        with pytest.raises(CancelledError):
            next(generation)
        del generation
    before = -1
    while before != server[1].sent:
        before = server[1].sent
        time.sleep(0.2)


def test_a_server_with_another_decoder_is_refused(bundle):
    """Same shape, other weights: the golden checkpoint before training."""
    with Analyzer(bundle("init")) as other, stand_in(other.pipeline.backend.decoder) as (address, _):
        with pytest.raises(BackendError, match=r"of the tokens of vllm are those of .*: it runs another decoder"):
            Analyzer(bundle("trained"), vllm=address)
        Analyzer(bundle("init"), vllm=address).close()


def test_a_server_that_allows_too_little_is_refused(server):
    address, side = server
    side.longest = 100
    with pytest.raises(BackendError, match=r"allows 100 positions, .* --max-model-len \d+"):
        Analyzer(vllm=address)
    side.longest = 4096


def test_without_all_probabilities_there_are_no_label_scores(server):
    """The warm-up leaves them out; a request for them names the option of vLLM."""
    address, side = server
    side.most_logprobs = 20
    with Analyzer(vllm=address) as analyzer:
        analyzer.warmup()
        with pytest.raises(TaskError, match="labels"):
            analyzer.analyze(FACES[0], tasks=("labels",))
    with Analyzer(vllm=address, scores=True) as analyzer, pytest.raises(TaskError, match="--max-logprobs -1"):
        analyzer.analyze(FACES[0])
    side.most_logprobs = None


def test_an_answer_that_breaks_off_is_an_error(server, remote):
    server[1].ends_after = 3
    with pytest.raises(BackendError, match="vLLM ended an answer after 3 tokens"):
        remote.ask(FACES[0], "emotion")
    server[1].ends_after = None


def test_no_server_no_vllm_no_folder(capsys, monkeypatch):
    with pytest.raises(BackendError, match="cannot be reached"):
        Analyzer(vllm="http://127.0.0.1:9")
    with pytest.raises(BackendError, match="--keep-gptq"):
        Analyzer(EMBEDDED, vllm="local")
    assert main(["serve", "--vllm-url", "http://127.0.0.1:9"]) == 2
    assert "--engine vllm" in capsys.readouterr().err
    assert main(["serve", "--engine", "vllm", "--vllm-url", "http://127.0.0.1:9", "--offline"]) == 1
    assert "cannot be reached" in capsys.readouterr().err


def test_without_vllm_the_extra_is_named(gptq_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(DependencyError, match=r"emola-edge\[vllm\]"):
        Analyzer(gptq_bundle, vllm="local")


def test_a_reply_that_is_none_of_vllm(server):
    """What is no list of models is one line."""
    address, side = server
    side.longest = "many"
    with pytest.raises(BackendError, match="expected vLLM's reply"):
        Analyzer(vllm=address)
    side.longest = 4096
    side.top = {"token_id:-1": 0.0}
    with pytest.raises(BackendError, match="expected probabilities of tokens by id"):
        VllmServer(address, 1024).log_probabilities(np.zeros((1, 8), np.float32))
    side.top = {}

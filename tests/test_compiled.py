"""`emola train --compile`: the losses without it, and one clear line where torch cannot compile."""

import os
import shutil

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch._dynamo.utils import counters
from training import emola_train, losses

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, about what its compiler does
needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler, and there is none"
)


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    """Compile anew, in one thread, and leave nothing behind."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch._dynamo.reset()
    counters.clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch._dynamo.reset()


@needs_compiler
def test_compiled_layers_learn_the_same(tmp_path):
    """Losses within 1e-4, with checkpointing; both runs have the same record, so either can go on as the other."""
    options = ("--max-steps", "2", "--dropout", "0", "--batch-size", "2")
    assert emola_train(tmp_path / "plain", *options) == 0
    assert not counters["frames"]["ok"]
    assert emola_train(tmp_path / "compiled", *options, "--compile") == 0
    assert counters["frames"]["ok"] >= 1
    np.testing.assert_allclose(losses(tmp_path / "compiled"), losses(tmp_path / "plain"), rtol=0, atol=1e-4)
    plain, compiled = ((tmp_path / name / "run.json").read_text() for name in ("plain", "compiled"))
    assert plain == compiled


@needs_compiler
def test_a_compiler_that_fails_is_one_line(tmp_path, capsys):
    with torch._inductor.config.patch({"cpp.cxx": (None, "false")}):
        assert emola_train(tmp_path / "run", "--max-steps", "1", "--compile") == 1
    found = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--compile failed" in found
    assert "leave it out" in found


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("CXX", "no-such-compiler", "there is no no-such-compiler"), ("ACCELERATE_USE_FSDP", "true", "not sharded")],
)
def test_what_is_missing_is_named_before_anything_is_loaded(tmp_path, monkeypatch, capsys, name, value, message):
    monkeypatch.setenv("CXX", "true")
    monkeypatch.setenv(name, value)
    assert emola_train(tmp_path / "run", "--compile") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

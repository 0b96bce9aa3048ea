"""Building and running engines uses only names that exist, in each of three TensorRT versions."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tensorrt_wheels
from tensorrt_wheels import VERSIONS

from export.targets.engines import EngineOptions
from sdk.cli import main
from sdk.errors import ExportError

SCRIPT = Path(__file__).parent / "tensorrt_contract.py"


def run(version: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = tensorrt_wheels.environment(version)
    if environment is None:
        pytest.skip(f"bindings of TensorRT {version} are not installed: python tests/tensorrt_wheels.py FOLDER")
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_contract_with_the_real_bindings(version, bundle, tmp_path):
    """Build, parity, latency, load, run in pieces, refuse another version, on autospecs of the real classes."""
    shutil.copytree(bundle(), tmp_path / "bundle")
    result = run(version, str(SCRIPT), str(tmp_path / "bundle"))
    assert result.returncode == 0, result.stderr[-3000:]
    assert "contract holds" in result.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_engines_run_beside_the_gptq_decoder(version, gptq_bundle, tmp_path):
    """`device="tensorrt"` takes the best decoder that opens, not only ONNX Runtime's."""
    shutil.copytree(gptq_bundle, tmp_path / "bundle")
    result = run(version, str(SCRIPT), "--gptq", str(tmp_path / "bundle"))
    assert result.returncode == 0, result.stderr[-3000:]
    assert "contract holds" in result.stdout


def test_the_contract_can_fail():
    """TensorRT 11 dropped BuilderFlag.FP16, which 10.3 has: the stand-ins know the difference."""
    code = "import tensorrt_contract as c; c.pretend(); import tensorrt; tensorrt.BuilderFlag.FP16"
    for version, expected in (("10.3.0", 0), ("11.4.0.106", 1)):
        result = run(version, "-c", f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); {code}")
        assert result.returncode == expected, result.stderr
    assert "has no attribute 'FP16'" in result.stderr


def test_without_tensorrt_the_message_says_what_still_works(bundle, capsys):
    pytest.importorskip("onnxruntime")
    if shutil.which("trtexec"):
        pytest.skip("TensorRT is installed here")
    assert main(["engines", str(bundle())]) == 1
    message = capsys.readouterr().err
    assert "pip install 'emola-edge[tensorrt]'" in message
    assert "the ONNX variant of the bundle works without it" in message


@pytest.mark.parametrize("batches", [(), (0, 1), (4, 1), (1, 1)])
def test_batches_must_rise(batches):
    with pytest.raises(ExportError, match="must be positive and rise"):
        EngineOptions(batches)

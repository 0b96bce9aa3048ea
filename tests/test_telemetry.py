"""ONNX Runtime 1.29 and later and OpenVINO send telemetry when they are imported. It is switched off before that."""

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ONNX_RUNTIME = """
from pathlib import Path
from sdk.onnx_session import open_session
from sdk.bundles.hub import EMBEDDED
open_session(EMBEDDED / "decoder/gptq-int4.onnx")
import onnxruntime
print(onnxruntime.__version__)
"""
OPENVINO = """
from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import read_manifest
from sdk.runtime.backends.select import open_backend
print(open_backend(EMBEDDED, read_manifest(EMBEDDED), "openvino").name)
"""


@pytest.mark.parametrize("opens", [ONNX_RUNTIME, OPENVINO], ids=["onnxruntime", "openvino"])
def test_opening_a_model_looks_up_no_host_and_writes_nothing(tmp_path, opens):
    """The process is traced: no address is looked up or connected to, and no identifier of the device is written."""
    if opens == OPENVINO and not find_spec("openvino"):
        pytest.skip("OpenVINO is not installed: pip install 'emola-edge[openvino]'")
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    hidden = ("CI", "BUILD", "TF_", "GITHUB", "JENKINS", "TEAMCITY", "TRAVIS", "XDG", "ORT", "PYTEST")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["ORT_DISABLE_TELEMETRY"] = "0"  # what the user's environment says does not matter
    command = [sys.executable, "-c", opens]
    tracer = ["strace", "-f", "--seccomp-bpf", "-e", "trace=%network", "-o", str(trace)]
    traced = shutil.which("strace") is not None and not subprocess.run([*tracer, "true"], check=False).returncode
    found = subprocess.run(
        [*tracer, *command] if traced else command, env=environment, cwd=home, capture_output=True, text=True
    )
    assert not found.returncode, found.stderr
    assert not [path for path in home.rglob("*") if path.is_file()], "a file was written"
    if traced:
        calls = [line for line in trace.read_text().splitlines() if re.search("AF_INET|AF_NETLINK|sun_path", line)]
        assert not calls, "the network was used"


def test_one_module_imports_onnxruntime():
    """Any other import could come first, with the telemetry on."""
    found = set()
    for folder in ("sdk", "trainer", "export", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if "onnxruntime" in {name.split(".")[0] for name in names}:
                    found.add(path.relative_to(ROOT).as_posix())
    assert found == {"sdk/onnx_session.py"}, "use sdk.onnx_session.load_onnxruntime"

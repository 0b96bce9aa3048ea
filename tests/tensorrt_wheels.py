"""The real Python bindings of three TensorRT versions and of CUDA, without the libraries behind them.

`python tests/tensorrt_wheels.py FOLDER` installs the wheels (1.3 MB each) and builds empty libraries that let the
bindings load on any machine, so that every class and attribute can be checked against the real thing.
"""

import os
import subprocess
import sys
from pathlib import Path

VERSIONS = {
    "10.3.0": "tensorrt-cu12-bindings==10.3.0",
    "10.16.1.11": "tensorrt-cu13-bindings==10.16.1.11",
    "11.4.0.106": "tensorrt-cu13-bindings==11.4.0.106",
}
CUDA = "cuda-bindings==13.5.0"
FOLDER = Path(os.environ.get("EMOLA_TENSORRT_BINDINGS", Path(__file__).parents[1] / ".tensorrt-bindings"))
_SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
    "getInferLibVersion",
)


def install(folder: Path) -> None:
    """Fill the folder: `cuda`, and for each version its bindings and `lib`."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target"]
    subprocess.run([*pip, folder / "cuda", CUDA], check=True)
    for version, requirement in VERSIONS.items():
        subprocess.run([*pip, folder / version, "--no-deps", requirement], check=True)
        _build_stubs(folder / version / "lib", version.split(".")[0])


def environment(version: str) -> "dict[str, str] | None":
    """Variables under which a new interpreter finds one version; None if it is not installed."""
    if not (FOLDER / version / "lib").is_dir() or not (FOLDER / "cuda").is_dir():
        return None
    paths = [str(FOLDER / version), str(FOLDER / "cuda"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(FOLDER / version / "lib"),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def _build_stubs(folder: Path, major: str) -> None:
    folder.mkdir(exist_ok=True)
    source = folder / "stub.c"
    source.write_text("".join(f"int {symbol}(void) {{ return 0; }}\n" for symbol in _SYMBOLS))
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = f"lib{name}.so.{major}"
        command = ["cc", "-shared", "-fPIC", "-o", folder / library, source, f"-Wl,-soname,{library}"]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    install(Path(sys.argv[1]))

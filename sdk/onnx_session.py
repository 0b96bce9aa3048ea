"""Import ONNX Runtime and open models with it. Nothing else in this project imports it.

Official builds of ONNX Runtime 1.29 and later send telemetry when they are imported, and write an identifier of the
device to the disk. It is switched off before the import, whatever the environment says: this runtime works offline.
"""

import os
from pathlib import Path
from typing import Any

from sdk.errors import BackendError, DependencyError, GraphError
from sdk.onnx_model import external_files
from sdk.printable import one_line
from sdk.untrusted_json import is_utf8

_CUDA = "CUDAExecutionProvider"
# Messages about a model that is newer than the installed ONNX Runtime; every other one is about a broken model.
_TOO_NEW = ("NOT_IMPLEMENTED", "not a registered function", "No Op registered", "IR version", "under development")


def load_onnxruntime(purpose: str = "run a bundle on the CPU") -> Any:
    """Import the module `onnxruntime`, without its telemetry.

    Args:
        purpose: what it is needed for, for the message.

    Raises:
        DependencyError: it is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, at the import
    try:
        import onnxruntime
    except ImportError:
        raise DependencyError("onnxruntime", "cpu", purpose) from None
    onnxruntime.disable_telemetry_events()  # the user's program may have imported it before
    return onnxruntime


def check_cuda() -> None:
    """Check that the installed ONNX Runtime was built with CUDA.

    Raises:
        DependencyError: it was not; the message names the extra to install.
    """
    if not has_cuda():
        purpose = "run on an NVIDIA GPU, in place of onnxruntime (uninstall that first)"
        raise DependencyError("onnxruntime-gpu", "gpu", purpose)


def has_cuda() -> bool:
    """Whether the installed ONNX Runtime was built with CUDA."""
    return _CUDA in load_onnxruntime().get_available_providers()


def open_session(
    path: Path, threads: int | None = None, device: str = "cpu", *, mapped: bool = False, arena: bool = False
) -> Any:
    """Open an InferenceSession.

    Args:
        threads: threads of one operator; None leaves the choice to ONNX Runtime.
        device: "cpu" or "cuda"; there is no fallback from CUDA to the CPU.
        mapped: on the CPU, leave weights that are in a file beside the graph as they are stored. The file is mapped
            into memory, and a weight in float16 is widened in each call: a sixth more time, far less memory.
        arena: keep the memory of a call for the next one. A decoder would keep 0.4 GB of a prefill at 7B, for no gain.

    Raises:
        GraphError: the file is no ONNX model, is broken, or reads files outside of its folder.
        BackendError: this ONNX Runtime is too old for the model, or CUDA cannot be started.
        DependencyError: ONNX Runtime is missing or was built without CUDA.
    """
    if device == "cuda":
        check_cuda()
    ort = load_onnxruntime()
    if not is_utf8(os.fspath(path)):
        raise BackendError(f"{path}: ONNX Runtime opens only names that are UTF-8; rename the file or its folder")
    outside = external_files(path)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = arena
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.force_spinning_stop", "1")  # else they take a core from the next session
    options.add_session_config_entry("session.load_model_format", "ONNX")  # other formats have other paths in them
    disabled: dict[str, Any] = {}
    if mapped and outside and device == "cpu":  # the layout optimisations above this level fold constants, too
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        disabled["disabled_optimizers"] = ["ConstantFolding"]
    exact = (_CUDA, {"use_tf32": "0"})  # TF32 keeps 10 bits of the mantissa, too few for a float32 graph's tolerance
    providers = [*([exact] if device == "cuda" else []), "CPUExecutionProvider"]
    try:
        session = ort.InferenceSession(os.fspath(path), options, providers=providers, **disabled)
    except Exception as error:  # the exception types of onnxruntime are not public
        raise _failure(path, error, f"ONNX Runtime {ort.__version__}", device) from error
    # ONNX Runtime falls back to the CPU and only logs the reason
    if device == "cuda" and _CUDA not in session.get_providers():
        raise BackendError(
            f"onnxruntime-gpu {ort.__version__} could not start CUDA: it needs an NVIDIA GPU, its driver, and the "
            "versions of CUDA and cuDNN that its log names"
        )
    _read_signature(path, session)
    return session


def _read_signature(path: Path, session: Any) -> None:
    """Check that names, types and sizes of inputs and outputs can be read; each access decodes them anew.

    Raises:
        GraphError: one of them is no UTF-8.
    """
    try:
        for value in (*session.get_inputs(), *session.get_outputs()):
            _ = value.name, value.type, value.shape
    except UnicodeDecodeError as error:
        raise GraphError(
            f"{path}: a name of an input, an output or a size is not UTF-8; copy or download it again"
        ) from error


def _failure(path: Path, error: Exception, runtime: str, device: str) -> BackendError:
    found = one_line(error)
    if device == "cpu" and not any(sign in found for sign in _TOO_NEW):
        return GraphError(f"{runtime} cannot open {path}: {found}; copy or download it again")
    return BackendError(f"{runtime} cannot open {path}: {found}")

"""Open vLLM with the decoder of a bundle: a server at an address, or vLLM in this process."""

from pathlib import Path

from sdk.bundles.embeddings import read_embeddings
from sdk.bundles.manifest import Manifest
from sdk.errors import BackendError
from sdk.runtime.backends.vllm.decoder import Engine, VllmDecoder
from sdk.runtime.backends.vllm.server import VllmServer

LOCAL = "local"


def open_vllm(bundle: Path, manifest: Manifest, where: str, longest: int) -> VllmDecoder:
    """Open vLLM.

    Args:
        where: address of a vLLM server that runs the decoder of this bundle, or LOCAL.
        longest: positions of a face, a question and an answer.

    Raises:
        BackendError: no server answers, it allows fewer positions, or the bundle has no folder for vLLM.
        DependencyError: vLLM or httpx is not installed.
    """
    table = read_embeddings(bundle / manifest.embeddings, manifest.geometry)
    vocabulary = manifest.geometry.vocabulary
    engine: Engine
    if where == LOCAL:
        from sdk.runtime.backends.vllm.local import LocalVllm  # imports asyncio

        engine = LocalVllm(_gptq_folder(bundle, manifest), vocabulary, longest)
    else:
        engine = server = VllmServer(where, vocabulary)
        if server.longest < longest:
            raise BackendError(
                f"the server at {where} allows {server.longest} positions, this bundle needs {longest}: start it with "
                f"--max-model-len {longest}"
            )
    return VllmDecoder(table, engine)


def _gptq_folder(bundle: Path, manifest: Manifest) -> Path:
    for variant in manifest.variants:
        if variant.backend == "gptq_cuda":
            return (bundle / variant.decoder).parent
    raise BackendError(
        f"{manifest.name} holds no GPTQ folder, which vLLM reads: export it with --quantize gptq --keep-gptq, or name "
        "a vLLM server that runs its decoder (--vllm-url)"
    )

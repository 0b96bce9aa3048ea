"""Open a bundle for use: a backend for its encoders and its decoder, and the pipeline around them."""

from pathlib import Path

from sdk.bundles.manifest import Manifest
from sdk.errors import BackendError
from sdk.ranges import POSITIVE
from sdk.runtime.backends.select import open_backend, open_with_vllm
from sdk.runtime.memory import Memory
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.pruning import rows_to_read
from sdk.runtime.verify import Reference, check_decoder


def open_pipeline(
    bundle: Path,
    manifest: Manifest,
    device: str,
    *,
    threads: int | None = None,
    memory_limit: int | None = None,
    visual_tokens: int | None = None,
    vllm: str | None = None,
) -> tuple[Pipeline, Memory]:
    """Open a bundle, and estimate the memory that it takes; arguments and errors as in `sdk.Analyzer`."""
    POSITIVE.check("memory_limit", memory_limit, optional=True)
    rows = rows_to_read(manifest.prompt.image_rows, visual_tokens)
    if vllm is None:
        backend = open_backend(bundle, manifest, device, threads=threads, memory_limit=memory_limit, image_rows=rows)
    else:
        backend = open_with_vllm(bundle, manifest, device, vllm, threads=threads, image_rows=rows)
    memory = Memory.of(manifest, backend.variant, rows, backend.held_bytes, backend.decoder.position_bytes)
    try:
        faces = memory.faces_within(memory_limit)
        if not faces:
            raise BackendError(f"memory_limit leaves no room for a face; it takes {memory.per_face / 1e6:.1f} MB")
        pipeline = Pipeline(bundle, manifest, backend, visual_tokens, pairs=faces > 1)
        if vllm is not None:
            check_decoder(pipeline, Reference.load(bundle / manifest.reference))
    except BaseException:
        backend.decoder.close()
        raise
    return pipeline, memory

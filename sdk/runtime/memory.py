"""Estimate the memory that a bundle needs, from its manifest alone."""

from dataclasses import dataclass

from sdk.bundles.manifest import Geometry, Manifest, Variant
from sdk.errors import BackendError

_FREE_QUESTION = 128  # tokens reserved for a free question
_KV_BYTES = {"cpu": 4, "cuda": 2}
_UNLIMITED_FACES = 1 << 16


def positions_per_face(manifest: Manifest, image_rows: int | None = None) -> int:
    """Length of a face's KV cache: its prefix, a question and an answer, within the trained context.

    Args:
        image_rows: rows of a face that the decoder reads; None reads all.
    """
    prompt = manifest.prompt
    longest = max(len(question.token_ids) for question in prompt.questions.values())
    prefix = len(prompt.prefix_ids) + (image_rows or prompt.image_rows)
    return min(manifest.geometry.context, prefix + longest + prompt.max_new_tokens + _FREE_QUESTION)


@dataclass(frozen=True)
class Memory:
    """Estimated bytes.

    Attributes:
        weights: size of a variant's files, where a CPU widens a float16 encoder unless it has a data file, and what its
            backend holds in addition.
        per_face: KV cache of one face; a call needs one, a batch needs one for each face.
    """

    weights: int
    per_face: int

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        variant: Variant,
        image_rows: int | None = None,
        held_bytes: int = 0,
        position_bytes: int | None = None,
    ) -> "Memory":
        """Estimate a variant.

        Args:
            image_rows: as in `positions_per_face`.
            held_bytes: those of the opened backend; 0 before it is opened, when only the files are known.
            position_bytes: those of its decoder; None: a cache holds keys and values.
        """
        data = f"{manifest.vision}.data"  # of a large encoder, whose weights stay as they are stored
        names = (manifest.vision, data, manifest.landmark, variant.decoder, *variant.external)
        sizes = {name: manifest.files[name].size for name in names if name in manifest.files}
        if variant.device == "cpu" and manifest.encoder_weights and data not in sizes:
            sizes[manifest.vision] = max(sizes.get(manifest.vision, 0), 4 * manifest.encoder_weights)
        return cls(
            weights=held_bytes + sum(sizes.values()),
            per_face=positions_per_face(manifest, image_rows)
            * (position_bytes or cls.row_bytes(manifest.geometry, variant)),
        )

    @staticmethod
    def row_bytes(geometry: Geometry, variant: Variant) -> int:
        """Bytes of the keys and values of one position."""
        return 2 * geometry.layers * geometry.kv_heads * geometry.head_size * _KV_BYTES[variant.device]

    def faces_within(self, limit: int | None) -> int:
        """Number of faces that can be decoded at once in `limit` bytes; None is no limit."""
        return _UNLIMITED_FACES if limit is None else max(0, int((limit - self.weights) // self.per_face))


def fitting_variants(manifest: Manifest, limit: int | None, image_rows: int | None = None) -> tuple[Variant, ...]:
    """The variants that can decode a face in `limit` bytes.

    Raises:
        BackendError: no variant can.
    """
    needs = {variant: Memory.of(manifest, variant, image_rows) for variant in manifest.variants}
    fitting = tuple(variant for variant, memory in needs.items() if memory.faces_within(limit) > 0)
    if not fitting:
        least = min(memory.weights + memory.per_face for memory in needs.values())
        raise BackendError(
            f"this bundle needs about {least / 1e6:.1f} MB (weights and the KV cache of one face), the limit is "
            f"{(limit or 0) / 1e6:.1f} MB; raise memory_limit or take a smaller bundle"
        )
    return fitting

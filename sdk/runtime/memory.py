"""How much memory a bundle takes, from its manifest alone."""

from dataclasses import dataclass

from sdk.bundles.manifest import Geometry, Manifest, Variant
from sdk.errors import BackendError

_FREE_QUESTION = 128  # tokens kept free for a question of the user's
_KV_BYTES = {"cpu": 4, "cuda": 2}
_NO_LIMIT = 1 << 16


def positions_per_face(manifest: Manifest) -> int:
    """Length of a face's KV cache: its prefix, a question and an answer, within the trained context."""
    prompt = manifest.prompt
    longest = max(len(question.token_ids) for question in prompt.questions.values())
    wanted = len(prompt.prefix_ids) + prompt.image_rows + longest + prompt.max_new_tokens + _FREE_QUESTION
    return min(manifest.geometry.context, wanted)


@dataclass(frozen=True)
class Memory:
    """Estimated bytes.

    Attributes:
        weights: of every graph of a variant, as they lie in its files, and what its backend holds beside them.
        per_face: KV cache of one face; each call takes one, a batch one for each of its faces.
    """

    weights: int
    per_face: int

    @classmethod
    def of(cls, manifest: Manifest, variant: Variant, held_bytes: int = 0) -> "Memory":
        """Of an opened backend, `held_bytes` is its own; before that, only the files are known."""
        parts = (manifest.vision, manifest.landmark, variant.decoder, *variant.external)
        return cls(
            weights=held_bytes + sum(manifest.files[name].size for name in parts if name in manifest.files),
            per_face=positions_per_face(manifest) * cls.row_bytes(manifest.geometry, variant),
        )

    @staticmethod
    def row_bytes(geometry: Geometry, variant: Variant) -> int:
        """Keys and values of one position."""
        return 2 * geometry.layers * geometry.kv_heads * geometry.head_size * _KV_BYTES[variant.device]

    def faces_within(self, limit: int | None) -> int:
        """Faces that can be decoded at once in so many bytes; None is no limit."""
        return _NO_LIMIT if limit is None else max(0, (limit - self.weights) // self.per_face)


def within_memory(manifest: Manifest, limit: int | None) -> Manifest:
    """The manifest with those variants only that can decode a face in `limit` bytes.

    Raises:
        BackendError: none can.
    """
    needs = {variant: Memory.of(manifest, variant) for variant in manifest.variants}
    fitting = tuple(variant for variant, memory in needs.items() if memory.faces_within(limit) > 0)
    if not fitting:
        least = min(memory.weights + memory.per_face for memory in needs.values())
        raise BackendError(
            f"this bundle needs about {least / 1e6:.1f} MB (weights and the KV cache of one face), the limit is "
            f"{(limit or 0) / 1e6:.1f} MB; raise memory_limit or take a smaller bundle"
        )
    return manifest.model_copy(update={"variants": fitting})

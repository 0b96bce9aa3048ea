"""`emola info [BUNDLE]`"""

import argparse
import textwrap
from collections.abc import Iterator

from sdk.bundles.hub import resolve_bundle
from sdk.bundles.manifest import Manifest, Variant, read_manifest
from sdk.runtime.backends.cpu_choice import reason_for_onnxruntime
from sdk.runtime.memory import Memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundle",
        nargs="?",
        metavar="BUNDLE",
        help="folder of a bundle, or owner/name on the hub (default: the bundle in the package)",
    )
    parser.add_argument("--offline", action="store_true", help="never use the network")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def run(args: argparse.Namespace) -> None:
    manifest = read_manifest(resolve_bundle(args.bundle, offline=args.offline))
    print(manifest.to_json() if args.json else "\n".join(_lines(manifest)))


def _lines(manifest: Manifest) -> Iterator[str]:
    g, p = manifest.geometry, manifest.preprocessing
    size = sum(record.size for record in manifest.files.values())
    yield f"{manifest.name}  ({size / 1e6:.1f} MB, format {manifest.format}, digest {manifest.digest[:12]})"
    if manifest.notice:
        yield from _paragraph("notice", manifest.notice)
    yield from _paragraph("intended use", manifest.intended_use)
    yield _row("tasks", ", ".join(manifest.prompt.questions))
    yield _row("decoder", f"{g.layers} layers, {g.hidden_size} wide, {g.heads} heads, {g.vocabulary} tokens")
    yield _row("picture", f"{p.image_size} px, {p.image_aspect}; {manifest.prompt.image_rows} rows per face")
    yield _row("landmarks", f"mode {p.landmark_mode}" if manifest.landmark else "no network: pass landmark_features=")
    for variant in manifest.variants:
        memory = Memory.of(manifest, variant)
        needs = f"{memory.weights / 1e6:.1f} MB, plus {memory.per_face / 1e6:.1f} MB for each face decoded at once"
        yield _row("variant", f"{variant.name} ({variant.precision} on {variant.backend}): about {needs}")
        yield from _on_cpu(manifest, variant)
    for licence in manifest.licences:
        yield from _paragraph("licence", f"{licence.part} ({licence.origin}): {licence.licence}")
    for parity in manifest.parity:
        yield _row("parity", f"{parity.variant} {parity.stage}: relative error {parity.relative_error:.1e}")
    yield from _gate(manifest)
    for found in manifest.calibration:
        errors = f"calibration error {100 * found.error_before:.1f} % -> {100 * found.error:.1f} %"
        yield _row(
            "label scores", f"{found.task}: temperature {found.temperature:.2f}, {errors} ({found.samples} faces)"
        )
    if not manifest.calibration:
        yield _row("label scores", "uncalibrated")
    for key, value in {**manifest.provenance, **manifest.environment}.items():
        yield _row(key, value)


def _on_cpu(manifest: Manifest, variant: Variant) -> Iterator[str]:
    """What device "auto" decodes a variant for the CPU with, and why."""
    if variant.backend == "ort" and variant.device == "cpu":
        against = reason_for_onnxruntime(manifest, variant)
        found = f"ONNX Runtime: {against}" if against else "OpenVINO: its prompts save more than its steps cost"
        yield from _paragraph("device auto", found)


def _gate(manifest: Manifest) -> Iterator[str]:
    """The verdict of the export, and what it did not judge."""
    gate = manifest.gate
    if gate is None:
        return
    if gate.rege:
        yield _row("REGE", str(gate.rege))
    for line in gate.shortfalls:
        yield from _paragraph("falls short", line)
    for line in gate.unjudged:
        yield from _paragraph("not judged", line)


def _row(key: str, value: str) -> str:
    return f"  {key:14}{' '.join(value.split())}"


def _paragraph(key: str, text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent=_row(key, ""), subsequent_indent=" " * 16)

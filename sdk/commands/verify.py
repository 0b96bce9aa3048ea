"""`emola verify BUNDLE`: check every hash, then compare every stage with the torch model on this machine."""

import argparse
import json
from collections.abc import Iterator, Sequence

from sdk.bundles.hub import resolve_bundle
from sdk.bundles.manifest import check_hashes, read_manifest, unlisted_files
from sdk.bundles.measured import Parity
from sdk.errors import IntegrityError
from sdk.printable import printable
from sdk.runtime.backends.select import DEVICES, open_backend
from sdk.runtime.pipeline import Pipeline
from sdk.runtime.verify import Reference, measure_parity


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundle",
        nargs="?",
        metavar="BUNDLE",
        help="folder of a bundle, or owner/name on the hub (default: the bundle in the package)",
    )
    parser.add_argument(
        "--device",
        choices=DEVICES[1:],
        default="cpu",
        help="what runs the bundle; tensorrt takes the engines of `emola engines`, openvino decodes on OpenVINO, "
        "openvino-prefill only reads faces there (default cpu)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> None:
    folder = resolve_bundle(args.bundle)
    manifest = read_manifest(folder)
    check_hashes(folder, manifest)
    unlisted = unlisted_files(folder, manifest)
    pipeline = Pipeline(folder, manifest, open_backend(folder, manifest, args.device))
    found = measure_parity(pipeline, Reference.load(folder / manifest.reference))
    if args.json:
        rows = [{**parity.model_dump(), "passed": parity.passed} for parity in found]
        summary = {"name": manifest.name, "files": len(manifest.files), "unlisted": unlisted, "parity": rows}
        print(json.dumps(summary, indent=1))
    else:
        print(f"{manifest.name}: {len(manifest.files)} files, all sizes and SHA-256 hashes match")
        print("\n".join([*map(_row, found), *_unlisted(unlisted)]))
    failed = [parity.stage for parity in found if not parity.passed]
    if failed:
        raise IntegrityError(
            f"{', '.join(failed)}: the error on this machine is above the tolerance; try another version of the runtime"
        )


def _unlisted(names: Sequence[str]) -> Iterator[str]:
    if names:
        shown = ", ".join(map(printable, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        yield f"  not in the manifest, so neither checked nor read: {shown}"


def _row(parity: Parity) -> str:
    agreement = "" if parity.agreement is None else f", {100 * parity.agreement:.1f} % of greedy tokens equal"
    errors = f"{parity.relative_error:.1e} (tolerance {parity.tolerance:.0e}), largest error {parity.max_error:.1e}"
    return (
        f"  {'ok  ' if parity.passed else 'FAIL'} {parity.variant} {parity.stage:9} relative error {errors}{agreement}"
    )

"""`emola export ADAPTER OUT --base B`"""

import argparse
import sys
from pathlib import Path

from sdk.errors import ExportError
from sdk.faba.prompts import TASKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", help="folder of an EmoLA adapter, or 'none' for a merged checkpoint")
    parser.add_argument("out", type=Path, help="folder of the new bundle")
    parser.add_argument("--base", required=True, help="folder of LLaVA-1.5, as released or as converted by llava-hf")
    parser.add_argument("--vision-tower", help="folder of CLIP; not needed if the base holds it")
    parser.add_argument("--landmark-model", type=Path, help="2d106det.onnx or a network with its interface")
    parser.add_argument("--quantize", choices=("none", "int4"), default="int4", help="of the decoder (default int4)")
    parser.add_argument(
        "--label-data",
        nargs=2,
        action="append",
        default=[],
        metavar=("TASK", "FILE"),
        help="evaluation file that the label scores of a task (emotion, action_units) are calibrated on",
    )


def run(args: argparse.Namespace) -> None:
    from .build import ExportOptions, export_bundle

    _check_label_data(args.label_data)
    options = ExportOptions(
        adapter=None if args.adapter == "none" else args.adapter,
        base=args.base,
        out=args.out,
        vision_tower=args.vision_tower,
        landmark_model=args.landmark_model,
        quantize=args.quantize,
    )
    manifest = export_bundle(options, report=lambda line: print(line, file=sys.stderr))
    if args.label_data:
        from .label_scores import calibrate_labels

        sets = {task: Path(path) for task, path in args.label_data}
        manifest = calibrate_labels(args.out, sets, report=lambda line: print(line, file=sys.stderr))
    size = sum(record.size for record in manifest.files.values())
    print(f"{args.out}: sealed, {size / 1e6:.1f} MB")
    for parity in manifest.parity:
        agreement = "" if parity.agreement is None else f", {100 * parity.agreement:.1f} % of greedy tokens equal"
        print(f"  {parity.variant} {parity.stage}: relative error {parity.relative_error:.1e}{agreement}")
    if manifest.landmark is None:
        print(
            "  without a landmark network this bundle cannot read photographs on its own: it needs landmark_features=; "
            "export again with --landmark-model to change that",
            file=sys.stderr,
        )


def _check_label_data(pairs: list[tuple[str, str]]) -> None:
    for task, path in pairs:
        if task not in TASKS or not Path(path).is_file():
            raise ExportError(
                f"--label-data {task} {path}: expected a task ({' or '.join(TASKS)}) and an existing file"
            )

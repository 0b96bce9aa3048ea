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
    decoder = parser.add_argument_group("decoder")
    decoder.add_argument(
        "--quantize",
        choices=("none", "int4", "gptq"),
        default="int4",
        help="int4 rounds to nearest; gptq calibrates on records and is closer to the original (default int4)",
    )
    decoder.add_argument("--bits", type=int, choices=(3, 4, 8), default=4, help="of gptq (default 4)")
    decoder.add_argument("--group-size", type=int, default=128, help="inputs that share a scale: 128, 64, 32 or 16")
    decoder.add_argument("--head-bits", type=int, choices=(8, 4), default=8, help="of the output head (default 8)")
    decoder.add_argument("--calibration", type=Path, metavar="JSON", help="training records that gptq calibrates on")
    decoder.add_argument("-n", "--calibration-records", type=int, default=128, help="how many (default 128)")
    decoder.add_argument("--root", type=Path, help="folder that their pictures are relative to; default: found")
    decoder.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where gptq computes")
    parser.add_argument(
        "--label-data",
        nargs=2,
        action="append",
        default=[],
        metavar=("TASK", "FILE"),
        help="evaluation file that the label scores of a task (emotion, action_units) are calibrated on",
    )


def run(args: argparse.Namespace) -> None:
    _check_label_data(args.label_data)
    import torch

    from .build import export_bundle
    from .calibrate import CalibrationSet
    from .gptq import GptqOptions
    from .options import ExportOptions

    device = "cuda" if args.device == "auto" and torch.cuda.is_available() else args.device
    calibration = None
    if args.quantize == "gptq" and args.calibration:
        calibration = CalibrationSet(args.calibration, args.calibration_records, args.root)
    options = ExportOptions(
        adapter=None if args.adapter == "none" else args.adapter,
        base=args.base,
        out=args.out,
        vision_tower=args.vision_tower,
        landmark_model=args.landmark_model,
        quantize=args.quantize,
        calibration=calibration,
        gptq=GptqOptions(args.bits, args.group_size),
        head_bits=args.head_bits,
        device="cpu" if device == "auto" else device,
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
            raise ExportError(f"--label-data {task} {path}: expected a task ({' or '.join(TASKS)}) and an existing file")

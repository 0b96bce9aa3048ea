"""`emola export ADAPTER OUT --base B`"""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", help="folder of an EmoLA adapter, or 'none' for a merged checkpoint")
    parser.add_argument("out", type=Path, help="folder of the new bundle")
    parser.add_argument("--base", required=True, help="folder of LLaVA-1.5, as released or as converted by llava-hf")
    parser.add_argument("--vision-tower", help="folder of CLIP; not needed if the base holds it")
    parser.add_argument("--landmark-model", type=Path, help="2d106det.onnx or a network with its interface")
    parser.add_argument("--target", help="refuse what does not fit this machine; `emola plan` lists them")
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
    decoder.add_argument(
        "--gptq",
        type=Path,
        metavar="DIR",
        help="take this decoder, quantised before by emola, GPTQModel, auto-gptq or optimum, as it is",
    )
    decoder.add_argument("-n", "--calibration-records", type=int, default=128, help="how many (default 128)")
    decoder.add_argument("--root", type=Path, help="folder that their pictures are relative to; default: found")
    decoder.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where gptq computes")


def run(args: argparse.Namespace) -> None:
    import torch

    from .build import export_bundle
    from .calibrate import CalibrationSet
    from .gptq import GptqOptions
    from .options import ExportOptions

    device = "cuda" if args.device == "auto" and torch.cuda.is_available() else args.device
    quantize, calibration = "gptq" if args.gptq else args.quantize, None
    if quantize == "gptq" and args.calibration and not args.gptq:
        calibration = CalibrationSet(args.calibration, args.calibration_records, args.root)
    options = ExportOptions(
        adapter=None if args.adapter == "none" else args.adapter,
        base=args.base,
        out=args.out,
        vision_tower=args.vision_tower,
        landmark_model=args.landmark_model,
        quantize=quantize,
        calibration=calibration,
        gptq=GptqOptions(args.bits, args.group_size),
        gptq_folder=args.gptq,
        target=args.target,
        head_bits=args.head_bits,
        device="cpu" if device == "auto" else device,
    )
    manifest = export_bundle(options, report=lambda line: print(line, file=sys.stderr))
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

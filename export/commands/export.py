"""`emola export ADAPTER OUT --base B`"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sdk.bundles.insightface_packs import find_model
from sdk.errors import ExportError
from sdk.faba.prompts import TASKS
from sdk.faba.vocabulary import DATASETS
from sdk.progress import Console
from sdk.ranges import COUNT, FINITE, POSITIVE, SHARE, check_options

if TYPE_CHECKING:
    from export.options import ExportOptions
    from sdk.bundles.manifest import Manifest


_RANGES = {
    **{"limit": COUNT, "calibration_records": COUNT, "min_first_tokens": SHARE},
    **{"max_rege_drop": FINITE, "max_latency": POSITIVE},  # with NaN every bundle would pass the gate
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "adapter", metavar="ADAPTER", help="folder of an EmoLA adapter, or 'none' if the base is a merged checkpoint"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the new bundle")
    parser.add_argument("--base", required=True, help="folder of LLaVA-1.5, as released or as converted by llava-hf")
    parser.add_argument("--vision-tower", help="folder of CLIP; not needed if the base contains it")
    parser.add_argument(
        "--landmark-model",
        help="ONNX file with the interface of 2d106det, or an insightface pack such as buffalo_l",
    )
    parser.add_argument(
        "--detector-model", help="ONNX file of a detector: SCRFD, of `emola pretrain-detector`, or an insightface pack"
    )
    parser.add_argument(
        "--target", metavar="NAME", help="machine that the bundle must fit; `emola plan` lists the names"
    )
    parser.add_argument(
        "--cuda", action="store_true", help="also write the decoder in float16 for NVIDIA GPUs (sdk extra: gpu)"
    )
    parser.add_argument("--tensorrt", action="store_true", help="also write the float16 encoder for `emola engines`")
    parser.add_argument(
        "--accept-noncommercial", action="store_true", help="accept weights whose licence forbids commercial use"
    )
    parser.add_argument(
        "--label-data",
        nargs=2,
        action="append",
        default=[],
        metavar=("TASK", "FILE"),
        help="evaluation file to calibrate the label scores of a task (emotion, action_units) on",
    )
    parser.add_argument(
        "--plan", action="store_true", help="print memory, disk and time of each stage, and start nothing"
    )
    _add_gate(parser)
    _add_decoder(parser)


def _add_decoder(parser: argparse.ArgumentParser) -> None:
    decoder = parser.add_argument_group("decoder")
    decoder.add_argument(
        "--quantize",
        choices=("none", "int4", "gptq"),
        default="int4",
        help="int4 rounds to nearest; gptq calibrates on training records and is more exact (default int4)",
    )
    decoder.add_argument("--bits", type=int, choices=(3, 4, 8), help="bits of gptq (default 4)")
    decoder.add_argument(
        "--group-size",
        type=int,
        metavar="N",
        help="number of inputs that share a scale in gptq: 128, 64, 32 or 16 (default 128)",
    )
    decoder.add_argument("--head-bits", type=int, choices=(8, 4), default=8, help="bits of the output head (default 8)")
    decoder.add_argument("--calibration", type=Path, metavar="JSON", help="training records that gptq calibrates on")
    decoder.add_argument(
        "--gptq",
        type=Path,
        metavar="DIR",
        help="use this decoder, which emola, GPTQModel, auto-gptq or optimum quantised",
    )
    decoder.add_argument(
        "--keep-gptq", action="store_true", help="put the folder of the quantised decoder into the bundle as well"
    )
    decoder.add_argument(
        "-n",
        "--calibration-records",
        type=int,
        default=128,
        metavar="N",
        help="number of calibration records (default 128)",
    )
    decoder.add_argument(
        "--answers",
        type=Path,
        nargs="+",
        default=[],
        metavar="JSON",
        help="training records whose answers the runtime drafts from, to save steps (default: those of --calibration)",
    )
    decoder.add_argument(
        "--root", type=Path, help="folder that the paths in records are relative to (default: searched above the file)"
    )
    decoder.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device that computes gptq and the answers of the torch model (default auto: a GPU if the model fits)",
    )


def _add_gate(parser: argparse.ArgumentParser) -> None:
    gate = parser.add_argument_group("gate: a bundle that falls short is not sealed")
    gate.add_argument("--evaluation", type=Path, metavar="JSON", help="compare REGE with torch on these records")
    gate.add_argument(
        "--evaluation-task", choices=("au", "emotion"), default="emotion", help="what its records ask (default emotion)"
    )
    gate.add_argument(
        "--evaluation-dataset",
        choices=tuple(DATASETS),
        default="FABA",
        help="decides which labels are scored (default FABA)",
    )
    gate.add_argument(
        "--limit", type=int, metavar="N", help="take only the first N records of the evaluation set (default: all)"
    )
    gate.add_argument(
        "--max-rege-drop",
        type=float,
        default=1.0,
        metavar="N",
        help="points of REGE that may be lost (default 1)",
    )
    gate.add_argument(
        "--max-latency",
        type=float,
        default=1.5,
        metavar="N",
        help="times the planned latency that are allowed with --target cpu (default 1.5)",
    )
    gate.add_argument(
        "--min-first-tokens",
        type=float,
        default=0.0,
        metavar="N",
        help="share of first tokens, in 0..1, that must equal those of torch (default 0)",
    )
    gate.add_argument("--allow", action="store_true", help="seal a bundle that falls short; its manifest records it")


def run(args: argparse.Namespace) -> None:
    check_options(vars(args), _RANGES)
    _check_label_data(args.label_data)
    unused = [name for name in ("calibration", "bits", "group_size") if getattr(args, name) is not None]
    if unused and args.quantize != "gptq":
        option = "--" + unused[0].replace("_", "-")
        raise ExportError(f"{option} is for --quantize gptq; without it the decoder is rounded, not calibrated")
    from export.build import export_bundle, plan_export

    options = _options(args)
    if args.plan:
        print("\n".join(plan_export(options)))
        return
    with Console() as report:
        manifest = export_bundle(options, report)
        if args.label_data:
            from export.label_scores import calibrate_labels

            sets = {task: Path(path) for task, path in args.label_data}
            manifest = calibrate_labels(args.out, sets, report)
    _print(manifest, options)


def _options(args: argparse.Namespace) -> "ExportOptions":
    from export.options import ExportOptions, GateOptions
    from export.quantise.calibrate import CalibrationSet
    from export.quantise.gptq import GptqOptions

    quantize, calibration = "gptq" if args.gptq else args.quantize, None
    group = GptqOptions.group if args.group_size is None else args.group_size
    if quantize == "gptq" and args.calibration and not args.gptq:
        calibration = CalibrationSet(args.calibration, args.calibration_records, args.root)
    return ExportOptions(
        adapter=None if args.adapter == "none" else args.adapter,
        base=args.base,
        out=args.out,
        vision_tower=args.vision_tower,
        landmark_model=find_model(args.landmark_model, "landmark", ExportError) if args.landmark_model else None,
        detector_model=find_model(args.detector_model, "detector", ExportError) if args.detector_model else None,
        quantize=quantize,
        calibration=calibration,
        answers=tuple(args.answers),
        gptq=GptqOptions(args.bits or GptqOptions.bits, group),
        gptq_folder=args.gptq,
        keep_gptq=args.keep_gptq,
        target=args.target,
        cuda=args.cuda,
        tensorrt=args.tensorrt,
        accept_noncommercial=args.accept_noncommercial,
        gate=GateOptions(
            evaluation=args.evaluation,
            task=args.evaluation_task,
            dataset=args.evaluation_dataset,
            root=args.root,
            limit=args.limit,
            rege_drop=args.max_rege_drop,
            latency_factor=args.max_latency,
            first_tokens=args.min_first_tokens,
            allow=args.allow,
        ),
        head_bits=args.head_bits,
        device=args.device,
    )


def _print(manifest: "Manifest", options: "ExportOptions") -> None:
    from export.networks import UNSTATED

    size = sum(record.size for record in manifest.files.values())
    print(f"{options.out}: sealed, {size / 1e6:.1f} MB")
    for parity in manifest.parity:
        agreement = "" if parity.agreement is None else f", {100 * parity.agreement:.1f} % of greedy tokens equal"
        print(f"  {parity.variant} {parity.stage}: relative error {parity.relative_error:.1e}{agreement}")
    if manifest.gate and (rege := manifest.gate.rege):
        print(f"  REGE {rege}")
    for line in manifest.gate.unjudged if manifest.gate else ():
        print(f"  not judged: {line}")
    print(f"  report: {options.report}")
    for licence in manifest.licences:
        if licence.licence == UNSTATED:
            print(f"  {licence.part} ({licence.origin}): the file states no licence; ask its maker", file=sys.stderr)
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

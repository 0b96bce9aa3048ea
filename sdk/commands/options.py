"""Options that several commands share, and what they mean."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdk.analyzer import Analyzer
from sdk.errors import UsageError
from sdk.faba.prompts import TASKS
from sdk.ranges import COUNT, FINITE, FROM_0, POSITIVE, SHARE, THREADS, check_options
from sdk.runtime.backends.select import DEVICES

_LIMITS = {
    **dict.fromkeys(("max_faces", "visual_tokens", "max_pixels"), COUNT),
    **{"threads": THREADS, "memory_limit": POSITIVE, "min_score": FINITE, "min_face": FROM_0},
}
STDIN = "<stdin>"  # the name of sys.stdin.buffer, hence the source of its analysis


def add_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the bundle and the device."""
    parser.add_argument(
        "--bundle",
        metavar="DIR",
        help="folder of a bundle, or owner/name on the hub (default: the bundle in the package)",
    )
    parser.add_argument("--offline", action="store_true", help="never use the network")
    parser.add_argument(
        "--device",
        default="auto",
        choices=DEVICES,
        help="what runs the model (default auto: the best that runs here)",
    )


def add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a picture is read."""
    parser.add_argument(
        "--faces",
        choices=("detect", "aligned"),
        default="detect",
        help="detect finds the faces; aligned takes every picture as the crop of one face (default detect)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="largest picture, as width times height (default: 200000000 for JPEG, 100000000 for other files)",
    )


def add_batch_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="number of faces decoded at once (default %(default)s)"
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the model and the tasks."""
    add_bundle_arguments(parser)
    parser.add_argument(
        "--task",
        action="append",
        choices=(*TASKS, "labels"),
        help="run only this task; may be given several times (default: emotion and action_units)",
    )
    parser.add_argument("--scores", action="store_true", help="add the probability of every label")
    parser.add_argument(
        "--abstain-below",
        type=float,
        default=0.0,
        metavar="P",
        help="give no label whose probability is below P, in 0..1; needs --scores (default 0: give all)",
    )
    add_reading_arguments(parser)
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="limit of each answer in tokens (default: that of the bundle)"
    )


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how faces are found and read."""
    parser.add_argument(
        "--detector",
        default="auto",
        metavar="FILE",
        help="what finds faces: an .onnx file (SCRFD, or of `emola pretrain-detector`), dlib, or auto, the bundle's "
        "detector or else that of the package (default auto)",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="S",
        help="lowest score of a detected face, in the unit of the detector (default: 0.75 with that of the "
        "package, 0.5 with SCRFD, 0.2 with dlib)",
    )
    parser.add_argument(
        "--min-face", type=float, default=0.0, metavar="PIXELS", help="smallest longer side of a face box (default 0)"
    )
    parser.add_argument("--max-faces", type=int, metavar="N", help="analyse only the N largest faces (default: all)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads on the CPU (default: ONNX Runtime chooses)")
    parser.add_argument(
        "--memory-limit", type=float, metavar="MB", help="memory for weights and KV caches (default: no limit)"
    )
    parser.add_argument(
        "--visual-tokens",
        type=int,
        metavar="N",
        help="number of picture rows that the decoder reads for each face; fewer are faster and change the answers "
        "(default: all)",
    )


def analyzer_options(args: argparse.Namespace) -> dict[str, Any]:
    """Check the options of `add_model_arguments` and return the keyword arguments of Analyzer."""
    check_options(vars(args), {"max_tokens": COUNT, "abstain_below": SHARE})
    if args.abstain_below and not args.scores and "labels" not in (args.task or ()):
        raise UsageError("--abstain-below needs label scores: add --scores or --task labels")
    return {**reading_options(args), "scores": args.scores, "abstain_below": args.abstain_below}


def reading_options(args: argparse.Namespace) -> dict[str, Any]:
    """Check the options of `add_reading_arguments`; return them, the bundle, the device and the limit of pictures."""
    limits = {name: vars(args).get(name) for name in _LIMITS}  # a video has no limit of pictures
    check_options(limits, _LIMITS)
    if args.memory_limit is not None:
        limits["memory_limit"] = 1e6 * args.memory_limit
    return {**limits, **{name: getattr(args, name) for name in ("bundle", "device", "detector", "offline")}}


def open_analyzer(args: argparse.Namespace, *, keep_image: bool = False) -> Analyzer:
    """Open the Analyzer that the options describe; print the notice of its model to stderr."""
    analyzer = Analyzer(**analyzer_options(args), keep_image=keep_image)
    print_notice(analyzer.pipeline.notice)
    return analyzer


def print_notice(notice: str | None) -> None:
    """Print the notice of a model, if it has one, to stderr."""
    if notice:
        print(f"note: {notice}", file=sys.stderr)


def add_fps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fps", type=float, metavar="N", help="frames of a video to analyse per second (default: every frame)"
    )


def check_inputs_stay(inputs: Sequence[str], *outputs: Path | None) -> None:
    """Raise UsageError if an output would replace an input."""
    given = {os.path.realpath(name) for name in inputs}
    for output in outputs:
        if output and os.path.realpath(output) in given:
            raise UsageError(f"{output} would replace an input; choose another path")

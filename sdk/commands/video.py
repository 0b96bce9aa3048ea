"""`emola video FILE|NUMBER|URL`"""

import argparse
import sys
from pathlib import Path

from sdk.commands.options import add_fps, add_model_arguments, check_inputs_stay, open_analyzer
from sdk.faba.prompts import TASKS
from sdk.ranges import COUNT, POSITIVE, check_options
from sdk.recording import Recorder
from sdk.results import Analysis, Face, FrameInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="video file, number of a camera (0 is the first), or URL such as rtsp://..."
    )
    add_model_arguments(parser)
    add_fps(parser)
    parser.add_argument(
        "--detect-every",
        type=int,
        default=1,
        metavar="N",
        help="detect faces in every N-th analysed frame and follow them in the others (default %(default)s)",
    )
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="S",
        help="drop frames that are more than S seconds late (default: drop none of a file; a camera always skips to "
        "its newest frame)",
    )
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="stop after S seconds of video (default: at its end)"
    )
    parser.add_argument("--jsonl", type=Path, metavar="OUT.jsonl", help="write one analysis in JSON per line")
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="OUT.csv",
        help="write a table with one row per face and frame: .csv, .xlsx or .parquet",
    )
    parser.add_argument("--save", type=Path, metavar="OUT.mp4", help="save the frames with boxes and labels")
    parser.add_argument("--timeline", type=Path, metavar="OUT.png", help="draw emotion and action units over time")
    parser.add_argument("--json", action="store_true", help="print one JSON document per line instead of text")


def run(args: argparse.Namespace) -> None:
    check_options(vars(args), {**dict.fromkeys(("seconds", "fps", "deadline"), POSITIVE), "detect_every": COUNT})
    check_inputs_stay([args.source], args.jsonl, args.csv, args.save, args.timeline)
    with (
        open_analyzer(args) as analyzer,
        Recorder(args.jsonl, args.csv, args.save, args.timeline) as recorder,
    ):
        frames = analyzer.watch(
            args.source,
            tasks=args.task or TASKS,
            sample_fps=args.fps,
            deadline_s=args.deadline,
            detect_every=args.detect_every,
            max_new_tokens=args.max_tokens,
        )
        count, last = 0, FrameInfo(index=0, time_s=0, dropped=0)
        for pixels, analysis in frames:
            if args.seconds is not None and analysis.frame and analysis.frame.time_s >= args.seconds:
                break
            recorder.add(pixels, analysis)
            print(analysis.to_json() if args.json else _line(analysis), flush=True)
            count, last = count + 1, analysis.frame or last
    damaged = f", {last.damaged} damaged packets skipped" if last.damaged else ""
    print(f"{count} {'frame' if count == 1 else 'frames'} analysed, {last.dropped} dropped{damaged}", file=sys.stderr)
    for path in recorder.paths:
        print(f"wrote {path}", file=sys.stderr)


def _line(analysis: Analysis) -> str:
    time_s = analysis.frame.time_s if analysis.frame else 0.0
    return f"{time_s:8.2f} s  " + ("  |  ".join(map(_words, analysis.faces)) or "no face")


def _words(face: Face) -> str:
    """The face in a few words, with the age of the reading in parentheses."""
    units = " ".join(unit.id for unit in face.action_units or () if unit.present)
    label = (face.emotion.label or "?") if face.emotion else ""
    return " ".join(filter(None, (f"{face.id}", label, units, f"({(face.age_ms or 0) / 1000:.1f} s ago)")))

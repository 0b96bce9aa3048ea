"""`emola plan [--target NAME] [--bundle B]`"""

import argparse
import json
from pathlib import Path

from export.targets.machines import TARGETS, find_target
from export.targets.plan import LLAVA_7B, Plan, Workload, encoder_weights, plan, workload_of
from sdk.bundles.manifest import read_manifest

_COLUMNS = (
    "needs GB   memory for the weights, the KV cache of one face and the runtime; left GB is what the machine keeps",
    "1st token  time from the crop of a face to the first word: encoders, then all rows of the prompt",
    "2nd quest. time to the first word of another question about the same face, whose rows are read already",
    "tok/s      decode steps per second, expected: the ceiling times the share",
    "ceiling    decode steps per second if every byte of the weights were read at the bandwidth of the data sheet",
    "share      part of that bandwidth which decoders reach on such a machine; --target NAME says from where",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", metavar="NAME", help=f"one of {', '.join(TARGETS)} (default all)")
    parser.add_argument("--bundle", type=Path, help="folder of a bundle (default: figures of EmoLA on LLaVA-1.5-7B)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> None:
    work = _workload(args.bundle) if args.bundle else LLAVA_7B
    targets = {args.target: find_target(args.target)} if args.target else TARGETS
    plans = [plan(name, target, work) for name, target in targets.items()]
    if args.json:
        print(json.dumps({"model": work.name, "plans": [found.to_dict() for found in plans]}, indent=1))
        return
    print(f"{work.name}: {work.image_rows + work.text_rows} rows before the answer, expected from data sheets")
    columns = (("needs GB", 10), ("left GB", 9), ("1st token", 11), ("2nd quest.", 11), ("tok/s", 9), ("ceiling", 11))
    print(f"{'target':13}{''.join(name.rjust(width) for name, width in columns)}  share")
    print("\n".join([*map(_row, plans), "", *_COLUMNS]))
    if args.target:
        print("\n".join(_details(plans[0], targets[args.target].tensorrt)))


def _workload(bundle: Path) -> Workload:
    manifest = read_manifest(bundle)
    return workload_of(manifest, encoder_weights(bundle, manifest))


def _row(found: Plan) -> str:
    needs = sum(found.memory_gb.values())
    if not found.fits:
        return f"{found.target:13}{needs:10.2f}{found.left_gb:9.2f}   does not fit"
    times = "".join(
        f"{value:8.{0 if value >= 10 else 1}f} ms" for value in (found.first_token_ms, found.second_question_ms)
    )
    rates = f"{found.tokens_per_s:9.1f}{found.ceiling_per_s:11.1f}{100 * found.share:5.0f} %"
    return f"{found.target:13}{needs:10.2f}{found.left_gb:9.2f}{times}{rates}"


def _details(found: Plan, tensorrt: tuple[str, str] | None) -> list[str]:
    parts = ", ".join(f"{part} {size:.3g}" for part, size in found.memory_gb.items())
    lines = [f"  {found.title}: {parts} GB", f"  share of the ceiling: {found.reason}"]
    if found.variant:
        lines.append(f"  variant: {found.variant}")
    if tensorrt:
        lines.append(f"  TensorRT {tensorrt[0]} to {tensorrt[1]}")
    return lines

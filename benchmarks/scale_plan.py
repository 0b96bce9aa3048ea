"""Plan a large job: from measured throughput to machines, hours and money.

    python benchmarks/scale_plan.py --rate 5.6 --price 0.08 [--photographs 1e6] [--days 1]
    python benchmarks/scale_plan.py --rate 5.6 --price 0.08 --video-hours 1000 --fps 1 [--read 0.2]

`--rate` is what `emola batch` reports on one machine: inputs per second. `--price` is that of the machine per hour, in
any currency. For video, every frame is searched for faces, and a share `--read` of the frames has a face that the model
reads anew; `--found` is how many frames per second one machine searches.
"""

import argparse
import json
import math


def plan(inputs: float, per_second: float, price: float, days: float) -> dict[str, float]:
    """Machine hours, machines that finish in time, their hours, and the cost of all and of a million inputs."""
    machine_hours = inputs / per_second / 3600
    machines = max(1, math.ceil(machine_hours / (24 * days)))
    return {
        "inputs": inputs,
        "machine_hours": round(machine_hours, 1),
        "machines": machines,
        "hours": round(machine_hours / machines, 1),
        "cost": round(machine_hours * price, 2),
        "cost_per_million": round(1e6 / per_second / 3600 * price, 2),
    }


def frame_rate(rate: float, found: float, read: float) -> float:
    """Frames per second of a machine that searches all of them and reads a share of them."""
    return 1 / (1 / found + read / rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, required=True, help="photographs per second of one machine")
    parser.add_argument("--price", type=float, required=True, help="of one machine per hour")
    parser.add_argument("--days", type=float, default=1, help="until the results are needed (1)")
    parser.add_argument("--photographs", type=float, default=1e6)
    parser.add_argument("--video-hours", type=float, help="plan video in place of photographs")
    parser.add_argument("--fps", type=float, default=1, help="frames to analyse per second of video (1)")
    parser.add_argument("--found", type=float, default=8, help="frames per second that one machine searches (8)")
    parser.add_argument("--read", type=float, default=0.2, help="share of the frames with a face that is read (0.2)")
    args = parser.parse_args()
    if args.video_hours is None:
        found = plan(args.photographs, args.rate, args.price, args.days)
    else:
        frames = 3600 * args.video_hours * args.fps
        found = plan(frames, frame_rate(args.rate, args.found, args.read), args.price, args.days)
    for name, value in found.items():
        print(f"{name:18} {value:14,.2f}".rstrip("0").rstrip("."))
    print(json.dumps(found))


if __name__ == "__main__":
    main()

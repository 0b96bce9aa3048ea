"""Score a run on rendered faces by skin tone and by pose, to find groups with worse results.

    python benchmarks/nano_groups.py RUN DATA --task emotion|au

RUN is the output of `emola evaluate`, and DATA the folder of `emola data synthesize` that was evaluated.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sdk.faba.rege import score
from trainer.evaluation.evaluate import PREDICTIONS, read_answers

GROUPS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "skin tone": lambda face: ["light (0-3)", "middle (3-6)", "dark (6-9)"][min(int(face["tone"] // 3), 2)],
    "yaw": lambda face: "frontal (< 15 deg)" if abs(face["yaw"]) < 15 else "turned (>= 15 deg)",
    "roll": lambda face: "upright (< 12 deg)" if abs(face["roll"]) < 12 else "tilted (>= 12 deg)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--task", choices=("emotion", "au"), required=True)
    args = parser.parse_args()
    answers = read_answers(args.run / PREDICTIONS)
    annotations = json.loads((args.data / f"eval_{args.task}_anno.json").read_text())[: len(answers)]
    lines = (args.data / "metadata.jsonl").read_text().splitlines()
    faces = {face["id"]: face for face in map(json.loads, lines)}
    about = [faces[Path(annotation["image"]).stem] for annotation in annotations]

    def figures(chosen: list[int]) -> dict[str, float]:
        found = score([answers[i] for i in chosen], [annotations[i] for i in chosen], task=args.task, dataset="FABA")
        return {"samples": len(chosen), "s_re": round(found.s_re, 2), "s_ge": round(found.s_ge, 2)}

    everyone = list(range(len(annotations)))
    table = {"all": figures(everyone)}
    for name, group_of in GROUPS.items():
        for group in sorted({group_of(face) for face in about}):
            table[f"{name}: {group}"] = figures([i for i in everyone if group_of(about[i]) == group])
    for group, found in table.items():
        difference = found["s_re"] - table["all"]["s_re"]
        print(f"{group:28}{found['samples']:6}{found['s_re']:8.2f}{found['s_ge']:8.2f}{difference:+8.2f}")
    print(json.dumps({"task": args.task, "groups": table}))


if __name__ == "__main__":
    main()

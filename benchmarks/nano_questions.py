"""Count the right answers to short questions about rendered faces, by topic.

    python benchmarks/nano_questions.py build/nano/eval/eval_question_anno.json [--bundle BUNDLE] [--limit 400]

The file is one that `emola data synthesize` writes; its answers are what the scenes show. An answer is right if it is
the same sentence.
"""

import argparse
from collections import Counter
from pathlib import Path

from sdk import Analyzer
from trainer.corpus.records import read_records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, metavar="FILE")
    parser.add_argument("--bundle", default=None, help="(default: the embedded one)")
    parser.add_argument("--limit", type=int, default=None, metavar="N", help="only the first N questions")
    args = parser.parse_args()
    asked, right = Counter[str](), Counter[str]()
    with Analyzer(*([args.bundle] if args.bundle else [])) as analyzer:
        for record in read_records(args.questions)[: args.limit]:
            topic = record.id.split("_", 1)[1]
            asked[topic] += 1
            right[topic] += analyzer.ask(record.image_path, record.question, faces="aligned") == record.answer
    for topic in sorted(asked):
        print(f"{topic:16} {right[topic]:4} of {asked[topic]:4}")
    print(f"{'all':16} {right.total():4} of {asked.total():4}, {100 * right.total() / max(asked.total(), 1):.1f} %")


if __name__ == "__main__":
    main()

"""Faces per second with the bundle's own decoder and with vLLM, in alternating rounds, for several faces at once.

    vllm serve FOLDER --enable-prompt-embeds --skip-tokenizer-init --max-logprobs -1 ...
    python benchmarks/vllm_throughput.py http://127.0.0.1:8001 [BUNDLE] [--sizes 1 8 32] [--rounds 5]

Both answer both questions about the same pictures; the answers must be equal. Prints a table and one line of JSON.
"""

import argparse
import json
import statistics
import time

from sdk import Analyzer
from sdk.bench.machine import environment
from sdk.commands.demo import PICTURES


def rate(analyzer: Analyzer, pictures: list[bytes], size: int) -> float:
    """Faces per second of a batch."""
    start = time.perf_counter()
    found = analyzer.analyze_batch(pictures, batch_size=size)
    return sum(len(analysis.faces) for analysis in found) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 32], help="faces at once")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    pictures = [path.read_bytes() for path in sorted(PICTURES.glob("*.jpg"))]
    with Analyzer(args.bundle) as own, Analyzer(args.bundle, vllm=args.url) as remote:
        expected = [analysis.faces for analysis in own.analyze_batch(pictures)]
        assert [analysis.faces for analysis in remote.analyze_batch(pictures)] == expected, "the answers differ"
        rates: dict[int, dict[str, list[float]]] = {}
        for size in args.sizes:
            many = pictures * max(1, size // len(pictures))
            rates[size] = {"bundle": [], "vllm": []}
            for _ in range(args.rounds):
                rates[size]["bundle"].append(rate(own, many, size))
                rates[size]["vllm"].append(rate(remote, many, size))
    medians = {size: {name: statistics.median(found) for name, found in each.items()} for size, each in rates.items()}
    print("| faces at once | bundle, faces/s | vLLM, faces/s |\n|---|---|---|")
    for size, each in medians.items():
        print(f"| {size} | {each['bundle']:.2f} | {each['vllm']:.2f} |")
    print(json.dumps({"benchmark": "vllm_throughput", "medians": medians, "machine": environment()}))


if __name__ == "__main__":
    main()

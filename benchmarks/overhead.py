"""Measure the time that the decode loop spends outside ONNX Runtime's run, per token.

    python benchmarks/overhead.py [--layers 4] [--tokens 200]

It measures emola-nano and a decoder of Vicuna's shape. The loop takes no longer with 32 layers than with 4.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from vicuna import PREFIX, random_vicuna

from sdk import Analyzer
from sdk.runtime.generate import Generation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=200)
    args = parser.parse_args()
    nano = Analyzer().pipeline
    result = {"benchmark": "overhead", "nano": measure(nano.backend.decoder, 65, 192, args.tokens)}
    with tempfile.TemporaryDirectory() as folder:
        result["vicuna"] = measure(random_vicuna(Path(folder), args.layers), PREFIX, 4096, args.tokens)
    for name in ("nano", "vicuna"):
        found = result[name]
        print(
            f"{name:8} token {found['token_us']:9.1f} us, of it outside the kernels {found['outside_us']:6.1f} us",
            end="",
        )
        print(f" = {100 * found['share']:.2f} %")
    print(json.dumps({**result, "layers": args.layers}))


class TimedSession:
    """A session that adds up the seconds of its runs in `inside`; it passes everything else on."""

    def __init__(self, session: object) -> None:
        self._session, self.inside = session, 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    def run_with_iobinding(self, *arguments: object) -> None:
        begin = time.perf_counter()
        self._session.run_with_iobinding(*arguments)
        self.inside += time.perf_counter() - begin


def measure(decoder: object, prefix: int, width: int, tokens: int) -> dict[str, float]:
    """Return medians over the tokens of one answer of fixed length."""
    session = decoder.session = TimedSession(decoder.session)
    cache = decoder.new_cache(prefix + tokens + 8)
    decoder.extend(cache, np.random.default_rng(0).standard_normal((prefix, width)).astype(np.float32))
    generation = Generation(decoder, cache, (1, 2, 3), stop_ids=(), max_new_tokens=tokens)
    next(generation)
    whole, outside = [], []
    for _ in range(tokens - 1):
        session.inside = 0.0
        begin = time.perf_counter()
        next(generation)
        whole.append(1e6 * (time.perf_counter() - begin))
        outside.append(whole[-1] - 1e6 * session.inside)
    token, beside = statistics.median(whole), statistics.median(outside)
    return {"token_us": round(token, 1), "outside_us": round(beside, 1), "share": round(beside / token, 4)}


if __name__ == "__main__":
    main()

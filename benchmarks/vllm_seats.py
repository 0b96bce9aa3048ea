"""Faces per minute of vLLM's build for CPUs, beside `benchmarks/batch_throughput.py`, which has the same weights.

    python benchmarks/vllm_seats.py [--layers 4] [--tokens 340] [--sizes 1 4 16] [--folder build/peers]

It runs in the environment of `make test-vllm`. The decoder has N layers of Vicuna-7B's shape and the head, with random
weights in a GPTQ folder. Each face is a prompt of 626 other tokens, so that vLLM's prefix cache has none of it, and an
answer of `--tokens` tokens; the second question is left out, in favour of vLLM.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from peer_weights import prepare
from vicuna import PREFIX, QUESTION

from sdk.bench.machine import processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=340)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--folder", type=Path, help="of the weights, kept for the next run")
    args = parser.parse_args()
    os.environ.update(VLLM_NO_USAGE_STATS="1", VLLM_CPU_KVCACHE_SPACE="4")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(prepare(args.folder or Path(folder), "vllm", args.layers, 8), args.tokens, args.sizes)
    print(json.dumps({"benchmark": "vllm_seats", "layers": args.layers, "machine": processor(), **found}))


def measure(weights: Path, tokens: int, sizes: list[int]) -> dict[str, object]:
    """Print and return faces per minute by number of faces at once."""
    import vllm

    model = vllm.LLM(str(weights), skip_tokenizer_init=True, max_model_len=1024, max_num_seqs=max(sizes))
    options = vllm.SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    random = np.random.default_rng(0)
    rates = {}
    for number, size in enumerate((1, *sizes)):  # the first is a warm-up
        prompts = random.integers(3, 32000, (size, PREFIX + QUESTION)).tolist()
        begin = time.perf_counter()
        answers = model.generate([{"prompt_token_ids": prompt} for prompt in prompts], options, use_tqdm=False)
        assert [len(answer.outputs[0].token_ids) for answer in answers] == [tokens] * size
        if number:
            rates[size] = round(60 * size / (time.perf_counter() - begin), 2)
    for size, rate in rates.items():
        print(f"  {size:3} faces at once {rate:8.2f} faces per minute")
    return {"vllm": vllm.__version__, "faces_per_minute": rates}


if __name__ == "__main__":
    main()

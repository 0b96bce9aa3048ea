"""Compare the decoder with llama.cpp, OpenVINO, transformers and ONNX Runtime GenAI on the same weights, alternating.

    pip install -e '.[cpu,export,peers]'
    python benchmarks/peers.py [--layers 4] [--rounds 5] [--head-bits 8] [--peers llama.cpp ...] [--folder build/peers]

The decoder has N layers of Vicuna-7B's shape and the head, with random weights in int4. The stages are a prefill of 650
tokens, a second question (14 tokens after 636 cached ones) and one step at context 650. Each decoder has its own
process, which sleeps while another is measured. `ours-openvino` is the runtime's decoder on OpenVINO, and `openvino` is
OpenVINO alone with the same graph. Logits are compared in the same run, and the ceilings of the machine are measured
between the rounds. With --folder the files are kept for the next run. On a machine that others use, --threads 1
--cpu-time counts the seconds that the processor worked, not those that passed.
"""

import argparse
import importlib
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from sdk.bench.machine import processor

PROMPT, QUESTION = 650, 14
SETTLE_SECONDS = 0.3  # until the threads of the previous decoder stop spinning
STAGES = {"prefill": (0, PROMPT, 1), "question": (PROMPT - QUESTION, PROMPT, 3), "step": (PROMPT, PROMPT + 1, 12)}
IDS = np.random.default_rng(3).integers(3, 32000, PROMPT + 1).tolist()
TOLERANCE = 0.08  # relative, of logits: decoders round activations to 8 bits in blocks of 32, 128 or not at all
PEERS = ("ours", "ours-openvino", "llama.cpp", "openvino", "transformers", "genai")
LAYER_PARAMETERS = 4 * 4096**2 + 3 * 4096 * 11008


@dataclass
class Peer:
    """A decoder in its own process, and its measurements."""

    name: str
    pipe: Connection
    facts: dict[str, Any]
    times: dict[str, list[list[float]]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    logits: dict[str, np.ndarray] = field(default_factory=dict)

    def measure(self, stage: str) -> None:
        time.sleep(SETTLE_SECONDS)
        self.pipe.send(stage)
        elapsed, self.logits[stage] = receive(self.pipe)
        self.times[stage].append(elapsed)
        print(f"{self.name} {stage} {statistics.median(elapsed):.1f} ms", file=sys.stderr)

    def median(self, stage: str) -> float:
        return statistics.median(itertools.chain(*self.times[stage]))

    def ratio(self, other: "Peer", stage: str) -> float:
        """Return how many times faster this peer is than the other, as the median over the rounds."""
        pairs = zip(other.times[stage], self.times[stage], strict=True)
        return statistics.median(statistics.median(theirs) / statistics.median(mine) for theirs, mine in pairs)


def serve(pipe: Connection, name: str, root: Path, layers: int, head_bits: int, threads: int, cpu_time: bool) -> None:
    """Make files and decoder in the child process, then measure one stage per message."""
    try:
        folder = importlib.import_module("peer_weights").prepare(root, name, layers, head_bits)
        decoder = importlib.import_module("peer_decoders").DECODERS[name](folder, layers, threads)
    except Exception as error:
        lines = str(error).splitlines()
        remedy = "; pip install -e '.[peers]'" if isinstance(error, ImportError) else ""
        pipe.send((False, f"{type(error).__name__}: {lines[0] if lines else ''}{remedy}"))
        return
    pipe.send((True, {key: getattr(decoder, key) for key in ("description", "weights", "cache")}))
    warnings.simplefilter("ignore")
    clock = time.process_time if cpu_time else time.perf_counter
    while stage := pipe.recv():
        start, end, repeats = STAGES[stage]
        elapsed = []
        for _ in range(repeats):
            begin = clock()
            logits = decoder.extend(start, IDS[start:end])
            elapsed.append(1000 * (clock() - begin))
        pipe.send((True, (elapsed, logits.copy())))


def ceilings(pipe: Connection, threads: int) -> None:
    """Measure GB/s of reading memory and GFLOP/s in fp32 in a child process, once per message; bf16 only once."""
    import torch

    from sdk.bench.ceilings import fastest
    from trainer.model.processor import multiplies_bfloat16

    torch.set_num_threads(threads)
    block, rows, weight = torch.ones(1 << 27), torch.randn(PROMPT, 4096), torch.randn(4096, 4096)
    few = rows if multiplies_bfloat16() else rows[:16]  # emulated bfloat16 is hundreds of times slower

    def gflops(left: Any, right: Any) -> float:
        return 2 * len(left) * right.numel() / fastest(lambda: left @ right, 3) / 1e9

    found = {"bf16": gflops(few.bfloat16(), weight.bfloat16())}
    pipe.send((True, None))
    while pipe.recv():
        found["read"] = block.nbytes / fastest(block.sum, 5) / 1e9
        found["fp32"] = gflops(rows, weight)
        pipe.send((True, found))


def start_process(target: Any, *args: Any) -> Connection:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=target, args=(theirs, *args), daemon=True).start()
    theirs.close()
    return ours


def receive(pipe: Connection) -> Any:
    try:
        good, content = pipe.recv()
    except EOFError:
        good, content = False, "its process died"
    if not good:
        raise RuntimeError(content)
    return content


def open_peers(names: list[str], *where: Any) -> tuple[list[Peer], dict[str, str]]:
    """Open the peers and run every stage once; return those that work, and the reasons why the others do not."""
    peers, missing = [], {}
    for name in names:
        pipe = start_process(serve, name, *where)
        try:
            peer = Peer(name, pipe, receive(pipe))
            for stage in STAGES:
                peer.measure(stage)
        except RuntimeError as error:
            if name == "ours":
                raise
            missing[name] = str(error)
        else:
            peers.append(peer)
    return peers, missing


def compare_logits(peers: list[Peer]) -> dict[str, float]:
    """Return the largest relative difference of each peer from our logits over the stages."""
    found = {}
    for peer in peers[1:]:
        pairs = [(peer.logits[stage], peers[0].logits[stage]) for stage in STAGES]
        found[peer.name] = max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)
        message = f"logits of {peer.name} differ by {found[peer.name]:.1%}, at most {TOLERANCE:.0%}"
        assert found[peer.name] <= TOLERANCE, message
    return found


def measure(args: argparse.Namespace, root: Path) -> None:
    """Alternate the peers stage by stage, and report."""
    names = [name for name in PEERS if name == "ours" or name in args.peers]
    peers, missing = open_peers(names, root, args.layers, args.head_bits, args.threads, args.cpu_time)
    machine = start_process(ceilings, args.threads)
    receive(machine)
    limits = []
    differences = compare_logits(peers)
    for peer in peers:
        peer.times = {stage: [] for stage in STAGES}
    for _ in range(args.rounds):
        for stage in STAGES:
            for peer in peers:
                peer.measure(stage)
        machine.send(True)
        limits.append(receive(machine))
    compare_logits(peers)
    for pipe in (*(peer.pipe for peer in peers), machine):
        pipe.send(None)  # ends the process
    ceiling = {name: statistics.median(limit[name] for limit in limits) for name in limits[0]}
    report(args, peers, missing, differences, ceiling)


def report(
    args: argparse.Namespace,
    peers: list[Peer],
    missing: dict[str, str],
    differences: dict[str, float],
    ceiling: dict[str, float],
) -> None:
    """Print the table and, as the last line, JSON."""
    rows = {peer.name: figures(peer, peers[0], args.layers) for peer in peers}
    clock = "CPU time" if args.cpu_time else "wall clock"
    print(
        f"{args.layers} layers of Vicuna-7B and the head in {args.head_bits} bits; {args.threads} threads; "
        f"medians of {args.rounds} rounds; {clock}"
    )
    print(
        f"ceilings: {ceiling['read']:.1f} GB/s read, GEMM {ceiling['fp32']:.0f} GFLOP/s in fp32, "
        f"{ceiling['bf16']:.0f} in bf16"
    )
    print(
        f"{'':14}{'prefill ms':>11}{'GFLOP/s':>9}{'x':>6}{'step ms':>9}{'GB/s':>6}{'x':>6}"
        f"{'question ms':>12}{'of first':>9}{'logits':>8}"
    )
    for name, row in rows.items():
        print(
            f"{name:14}{row['prefill_ms']:11.0f}{row['prefill_gflops']:9.0f}{row['prefill_ours_faster']:6.2f}"
            f"{row['step_ms']:9.2f}{row['step_gbs']:6.1f}{row['step_ours_faster']:6.2f}"
            f"{row['question_ms']:12.1f}{row['question_of_first']:9.1%}{differences.get(name, 0):8.1%}"
            f"  {row['description']}"
        )
    for name, reason in missing.items():
        print(f"{name:14} not measured: {reason}")
    print(
        json.dumps(
            {
                "benchmark": "peers",
                "layers": args.layers,
                "head_bits": args.head_bits,
                "rounds": args.rounds,
                "threads": args.threads,
                "cpu_time": args.cpu_time,
                "machine": processor(),
                "ceilings": ceiling,
                "peers": rows | {name: {"skipped": reason} for name, reason in missing.items()},
                "logit_differences": differences,
            }
        )
    )


def figures(peer: Peer, ours: Peer, layers: int) -> dict[str, Any]:
    """Return medians, ratios (how many times faster we are) and rates."""
    prefill, step, question = (peer.median(stage) for stage in ("prefill", "step", "question"))
    attention = 2 * PROMPT**2 * 4096  # the two products, the causal half of them
    flops = layers * (2 * PROMPT * LAYER_PARAMETERS + attention)
    return {
        "description": peer.facts["description"],
        "prefill_ms": prefill,
        "prefill_gflops": flops / prefill / 1e6,
        "prefill_ours_faster": ours.ratio(peer, "prefill"),
        "step_ms": step,
        "step_gbs": (peer.facts["weights"] + PROMPT * peer.facts["cache"]) / step / 1e6,
        "step_ours_faster": ours.ratio(peer, "step"),
        "question_ms": question,
        "question_of_first": question / prefill,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--head-bits", type=int, choices=(4, 8), default=8)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds of the process; takes --threads 1")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.cpu_time and args.threads != 1:
        parser.error("--cpu-time takes --threads 1: threads that wait for each other spin")
    with tempfile.TemporaryDirectory() as folder:
        measure(args, args.folder or Path(folder))


if __name__ == "__main__":
    main()

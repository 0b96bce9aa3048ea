"""The GPU decoder at Vicuna-7B's shape: correctness, ceilings, every stage, one table and one JSON line.

    python benchmarks/gpu.py                     # random GPTQ weights, made on the device; some minutes
    python benchmarks/gpu.py --sweep             # the best launch configuration of every linear layer
    TRITON_INTERPRET=1 python benchmarks/gpu.py --tiny --device cpu      # the same path in Triton's interpreter

Every kernel is checked against its reference in torch before anything is timed. Needs torch, triton and numpy; the
vision tower is torch's own encoder layers at CLIP-L/14-336's shape.
"""

import argparse
import itertools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import triton
from torch import nn

from sdk.bundles.manifest import Geometry
from sdk.runtime.backends.gptq_cuda import kernels, reference
from sdk.runtime.backends.gptq_cuda.decoder import GptqDecoder
from sdk.runtime.backends.gptq_cuda.rows import Rows
from sdk.runtime.backends.gptq_cuda.weights import (
    Layer,
    Linear4,
    Llama,
    interleave,
    pack,
    rotary_tables,
)
from sdk.runtime.generate import Generation

GOALS = {"tokens_per_s_1": 600, "first_token_ms": 20, "second_question_ms": 8, "sdk_overhead": 0.02}
GROUP, QUESTION = 128, 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a toy shape; times mean nothing")
    parser.add_argument("--layers", type=int, help="default 32")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--sweep", action="store_true", help="time launch configurations instead")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; TRITON_INTERPRET=1 with --tiny --device cpu tries the path on a CPU")
    torch.manual_seed(0)
    bench = Bench(args)
    with torch.inference_mode():
        if args.sweep:
            bench.sweep()
            return
        bench.check()
        figures = bench.measure()
    bench.print_table(figures)
    print(json.dumps({"environment": bench.environment(), "figures": figures, "goals": GOALS}))


def geometry(tiny: bool, layers: int | None) -> Geometry:
    shape = {"hidden_size": 4096, "heads": 32, "kv_heads": 32, "head_size": 128, "vocabulary": 32000}
    if tiny:
        shape = {"hidden_size": 128, "heads": 2, "kv_heads": 2, "head_size": 64, "vocabulary": 96}
    inner = 256 if tiny else 11008
    return Geometry(**shape, layers=layers or (1 if tiny else 32), context=2048, intermediate_size=inner)


def random_llama(g: Geometry, device: str) -> Llama:
    """Weights whose activations stay near 1, in groups of 128."""
    width, inner = g.hidden_size, g.intermediate_size

    def linear(inputs: int, outputs: int) -> Linear4:
        values = torch.randint(-(2**31), 2**31 - 1, (inputs // 8, outputs), dtype=torch.int32, device=device)
        spread = 0.5 + torch.rand(inputs // GROUP, outputs, device=device)
        return pack(values, (spread * 0.2 / inputs**0.5).half())

    def layer() -> Layer:
        both = interleave(linear(width, inner), linear(width, inner))
        attention = g.heads * g.head_size
        qkv = linear(width, attention + 2 * g.kv_heads * g.head_size)
        return Layer(norm(), qkv, linear(attention, width), norm(), both, linear(inner, width))

    def norm() -> torch.Tensor:
        return 1 + 0.1 * torch.randn(width, device=device)

    table, head = (torch.randn(g.vocabulary, width, device=device).half() for _ in range(2))
    angles = rotary_tables(10000.0, g, device)
    return Llama(g, 1e-5, table, tuple(layer() for _ in range(g.layers)), norm(), head / width**0.5, *angles)


class Bench:
    """A random model on a device, and what is measured of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args, self._device = args, args.device
        self._g = geometry(args.tiny, args.layers)
        self._prefix, self._context = (40, 48) if args.tiny else (650, 700)
        self._llama = random_llama(self._g, self._device)
        table = self._llama.table.float().cpu().numpy()
        on_gpu = self._device == "cuda"
        self._decoder = GptqDecoder(
            self._llama, kernels, table, dtype=torch.float16, keep_dense=on_gpu and self._room(), graphs=on_gpu
        )

    def _room(self) -> bool:
        dense = 2 * sum(w.inputs * w.outputs for layer in self._llama.layers for w in layer.linears)
        return torch.cuda.mem_get_info()[0] > 3 * dense

    def environment(self) -> dict[str, Any]:
        name = torch.cuda.get_device_name() if self._device == "cuda" else platform.processor() or "cpu"
        versions = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
        return {"device": name, "layers": self._g.layers, "cuda": torch.version.cuda, **versions}

    # correctness

    def check(self) -> None:
        """Every kernel on the same buffers as its reference, at one row and at several."""
        for count in (1, 5):
            for name, call in self._calls().items():
                states = []
                for module in (reference, kernels):
                    rows, cache = self._made_up(count)
                    call(module, rows, cache)
                    states.append({**vars(rows), "cache": cache})
                    assert not rows.counters.any(), f"{name} leaves its counters"
                for buffer in ("hidden", "weighted", "query", "attended", "product", "logits", "cache"):
                    expected, found = (state[buffer].float() for state in states)
                    error = float((found - expected).norm() / expected.norm().clamp(min=1e-20))
                    if error > 3e-3:
                        raise SystemExit(
                            f"{name}, {count} rows: {buffer} differs by {error:.1e} (relative), 3e-3 allowed"
                        )
        self._check_paths()
        print("every kernel computes what its reference computes", file=sys.stderr)

    def _calls(self) -> dict[str, Callable[[Any, Rows, torch.Tensor], None]]:
        llama, layer = self._llama, self._llama.layers[0]
        return {
            "start": lambda k, rows, cache: k.start(rows, llama, llama.norm, None),
            "read": lambda k, rows, cache: k.read(rows, llama, layer, cache),
            "attend": lambda k, rows, cache: k.attend(rows, llama, cache),
            "add": lambda k, rows, cache: k.add(rows, rows.product, layer.down, llama.norm),
            "gate_up": lambda k, rows, cache: k.gate_up(rows, llama, layer.gate_up),
            "head": lambda k, rows, cache: k.head(rows, llama, None),
        }

    def _made_up(self, count: int) -> tuple[Rows, torch.Tensor]:
        random = torch.Generator(self._device).manual_seed(count)
        rows = Rows.allocate(self._llama).first(count)
        for name in ("hidden", "weighted", "query", "attended", "product"):
            getattr(rows, name).normal_(generator=random)
        rows.squares.fill_(float(rows.hidden[0].square().sum()) / rows.squares.shape[1])
        rows.sequences.copy_(torch.arange(count) % 3)
        rows.positions.copy_(self._context - 2 * torch.arange(count))
        g = self._g
        shape = (3, 2, g.kv_heads, self._context + 1, g.head_size)
        return rows, torch.randn(shape, device=self._device, generator=random).half()

    def _check_paths(self) -> None:
        """The dense path and the steps give the same logits; graphs give what single launches give."""
        decoder, rows = self._decoder, self._random_rows(self._prefix)
        dense, steps = decoder.new_cache(self._prefix + 8), decoder.new_cache(self._prefix + 8)
        whole = decoder.extend(dense, rows)
        decoder.extend(steps, rows[:-QUESTION])
        for _ in range(3):  # by hand, while recorded, replayed
            steps.length = self._prefix - QUESTION
            parts = decoder.extend(steps, rows[-QUESTION:])
            error = np.linalg.norm(parts - whole) / np.linalg.norm(whole)
            if not error < 0.03:
                raise SystemExit(f"steps differ from the dense path by {error:.1e} (relative), 3e-2 allowed")
        drawn = []
        for _ in range(3):
            dense.length = self._prefix
            drawn.append(list(itertools.islice(decoder.greedy(dense, [5]), 6)))
        if drawn[0] != drawn[1] or drawn[0] != drawn[2]:
            raise SystemExit(f"greedy tokens change from run to run: {drawn}")

    def _random_rows(self, count: int) -> np.ndarray:
        return np.random.default_rng(0).standard_normal((count, self._g.hidden_size)).astype(np.float32)

    # time

    def _time(self, action: Callable[[], object], rounds: int | None = None) -> tuple[float, float]:
        """Median and spread (interquartile range) in seconds, after two runs to warm up."""
        seconds = []
        for index in range(2 + (rounds or self._args.rounds)):
            self._wait()
            begin = time.perf_counter()
            action()
            self._wait()
            if index > 1:
                seconds.append(time.perf_counter() - begin)
        low, _, high = statistics.quantiles(seconds, n=4)
        return statistics.median(seconds), high - low

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()

    def measure(self) -> dict[str, dict[str, float]]:
        """Seconds of every stage, with what bounds it."""
        found: dict[str, dict[str, float]] = {}

        def put(name: str, seconds: tuple[float, float], floor: float = 0.0, **more: float) -> None:
            share = {"share_of_ceiling": round(floor / seconds[0], 3)} if floor else {}
            times = {"ms": round(1000 * seconds[0], 4), "spread_ms": round(1000 * seconds[1], 4)}
            found[name] = {**times, **share, **more}

        bandwidth, gemm = self._ceilings(put)
        vision = self._vision()
        put("vision tower", vision, self._tower_flops() / gemm)
        decoder, rows = self._decoder, self._random_rows(self._prefix)
        cache = decoder.new_cache(self._context + 300)

        def prefill() -> None:
            cache.length = 0
            decoder.extend(cache, rows)

        def question() -> None:
            cache.length = self._prefix
            decoder.extend(cache, rows[:QUESTION])

        first = self._time(prefill)
        put("prefill", first, self._prefill_flops() / gemm, rows=self._prefix)
        put("second question", self._time(question), self._step_bytes(1) / bandwidth)
        total = (vision[0] + first[0] + found["second question"]["ms"] / 1000, vision[1] + first[1])
        put("time to first token", total)
        for batch in (1, 2, 4, 8):
            step = self._step(batch)
            rate = round(batch / step[0], 1)
            put(f"decode step, batch {batch}", step, self._step_bytes(batch) / bandwidth, tokens_per_s=rate)
        loop, bare = self._loop(cache), found["decode step, batch 1"]["ms"] / 1000
        put("decode loop of the SDK, per token", loop, overhead=round(loop[0] / bare - 1, 4))
        return found

    def _ceilings(self, put: Callable[..., None]) -> tuple[float, float]:
        """(bytes/s of reading, 16-bit FLOP/s) that torch reaches here."""
        size = (1 << 16) if self._args.tiny else (1 << 31)
        seconds = self._time(torch.ones(size // 4, device=self._device).sum)
        put("read bandwidth", seconds, gb_per_s=round(size / seconds[0] / 1e9, 1))
        side = 64 if self._args.tiny else 8192
        left, right = (torch.randn(side, side, device=self._device).half() for _ in range(2))
        product = self._time(lambda: left @ right)
        put("16-bit GEMM", product, tflops=round(2 * side**3 / product[0] / 1e12, 4))
        return size / seconds[0], 2 * side**3 / product[0]

    def _vision(self) -> tuple[float, float]:
        """CLIP-L/14-336 up to its last layer but one and the projector; random weights, float16 on a GPU."""
        width, layers, tokens = (64, 1, 17) if self._args.tiny else (1024, 23, 577)
        dtype = torch.float16 if self._device == "cuda" else torch.float32
        block = nn.TransformerEncoderLayer(
            width, width // 64, 4 * width, activation="gelu", batch_first=True, norm_first=True, dropout=0.0
        )
        tower = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        projector = nn.Sequential(nn.Linear(width, self._g.hidden_size), nn.GELU())
        projector.append(nn.Linear(self._g.hidden_size, self._g.hidden_size))
        patches = nn.Conv2d(3, width, 14, 14)
        side = 14 * round((tokens - 1) ** 0.5)
        network = nn.ModuleList([patches, tower, projector]).to(self._device, dtype).eval()
        picture = torch.randn(1, 3, side, side, device=self._device, dtype=dtype)
        return self._time(lambda: network[2](network[1](network[0](picture).flatten(2).transpose(1, 2))))

    def _tower_flops(self) -> float:
        width, layers, tokens = (64, 1, 16) if self._args.tiny else (1024, 23, 576)
        projector = width * self._g.hidden_size + self._g.hidden_size**2
        return float(2 * tokens * (12 * width**2 * layers + projector) + 4 * tokens**2 * width * layers)

    def _weights(self) -> int:
        return sum(w.inputs * w.outputs for layer in self._llama.layers for w in layer.linears)

    def _prefill_flops(self) -> float:
        g, count = self._g, self._prefix
        return float(2 * count * self._weights() + 2 * count**2 * g.heads * g.head_size * g.layers)

    def _step_bytes(self, batch: int) -> float:
        """What one step reads: all weights, and the keys and values of every sequence."""
        g, weights = self._g, sum(w.nbytes() for layer in self._llama.layers for w in layer.linears)
        row = 4 * g.layers * g.kv_heads * g.head_size
        return float(weights + self._llama.head.nbytes + batch * self._context * row)

    def _step(self, batch: int) -> tuple[float, float]:
        """One step on the device, with tokens that stay there: what `greedy` replays."""
        decoder = self._decoder
        pool = decoder.new_pool(self._context + 300, batch)
        memory, count = pool.memory, 1 if self._args.tiny else 16
        memory.state[:, 0], memory.state[:, 1] = 5, self._context

        def steps() -> None:
            decoder._rows.sequences[:batch] = torch.arange(batch)
            decoder._placed = None
            memory.state[:, 1] = self._context
            for _ in range(count):
                decoder._run(memory, batch, from_state=True)

        median, spread = self._time(steps)
        return median / count, spread / count

    def _loop(self, cache: Any) -> tuple[float, float]:
        """Seconds per token of `Generation`, as `Analyzer` runs it, from the second token on."""
        count = 4 if self._args.tiny else 128

        def run() -> float:
            cache.length = self._context - count // 2
            tokens = Generation(self._decoder, cache, [5], stop_ids=(), max_new_tokens=count + 1)
            next(tokens)
            begin = time.perf_counter()
            assert sum(1 for _ in tokens) == count
            return (time.perf_counter() - begin) / count

        run()
        times = [run() for _ in range(max(3, self._args.rounds))]
        low, _, high = statistics.quantiles(times, n=4)
        return statistics.median(times), high - low

    def sweep(self) -> None:
        """One line per linear layer and kind: the quickest configuration, for `kernels.tuned`."""
        llama, layer = self._llama, self._llama.layers[0]
        calls = self._calls() | {"out": lambda k, rows, cache: k.add(rows, rows.attended, layer.out, llama.norm)}
        matrices = {"read": layer.qkv, "out": layer.out, "gate_up": layer.gate_up, "add": layer.down}
        for count, (name, linear) in itertools.product((1, 8), matrices.items()):
            rows, cache = self._made_up(count)
            found = {}
            for splits, warps, stages in itertools.product((1, 2, 4, 8, 16), (2, 4, 8), (2, 4, 6)):
                launch = kernels.Launch(splits, warps, stages)
                kernels.tuned[linear.outputs, linear.inputs, count == 1] = launch
                found[launch] = self._kernel_seconds(lambda n=name, r=rows, c=cache: calls[n](kernels, r, c))
            best = min(found, key=found.__getitem__)
            rate = linear.nbytes() / found[best] / 1e9
            key = (linear.outputs, linear.inputs, count == 1)
            print(f"{name:8} {count} rows: {1e6 * found[best]:7.1f} us, {rate:7.1f} GB/s  {key}: {best}", flush=True)

    def _kernel_seconds(self, call: Callable[[], None]) -> float:
        """Of one launch; on a GPU out of 20 in a graph, with nothing of the weights left in the L2 cache."""
        if self._device == "cpu":
            return self._time(call, 2)[0]
        flush = torch.empty(1 << 28, dtype=torch.int8, device=self._device)
        call()
        graph, begin, end = torch.cuda.CUDAGraph(), *(torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.graph(graph):
            call()
        times = []
        for _ in range(20):
            flush.zero_()
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1000)
        return statistics.median(times)

    def print_table(self, figures: dict[str, dict[str, float]]) -> None:
        step = figures["decode step, batch 1"]["tokens_per_s"]
        goals = {
            "decode step, batch 1": f"{GOALS['tokens_per_s_1']} tok/s: {step / GOALS['tokens_per_s_1']:.2f} of it",
            "time to first token": f"{GOALS['first_token_ms']} ms",
            "second question": f"{GOALS['second_question_ms']} ms",
            "decode loop of the SDK, per token": f"overhead {GOALS['sdk_overhead']:.0%}",
        }
        print(f"{'stage':36}{'median ms':>12}{'spread':>10}{'ceiling':>9}  goal on H200, and more")
        for name, row in figures.items():
            share = row.get("share_of_ceiling")
            more = {k: v for k, v in row.items() if k not in ("ms", "spread_ms", "share_of_ceiling")}
            notes = [goals[name]] if name in goals else []
            notes += [f"{key} {value}" for key, value in more.items()]
            shown = f"{share:9.1%}" if share else f"{'':9}"
            print(f"{name:36}{row['ms']:12.3f}{row['spread_ms']:10.3f}{shown}  {', '.join(notes)}")


if __name__ == "__main__":
    main()

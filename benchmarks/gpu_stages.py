"""Time every stage of the GPU decoder and measure the ceilings that limit them."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gpu_model import QUESTION, Model
from torch import nn

from sdk.runtime.generate import Generation


def timed(action: Callable[[], object], device: str, rounds: int) -> tuple[float, float]:
    """Return median and spread (interquartile range) in seconds, after two runs to warm up, or one on a CPU."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    seconds, warm_ups = [], 2 if device == "cuda" else 1
    for _ in range(warm_ups + rounds):
        wait()
        begin = time.perf_counter()
        action()
        wait()
        seconds.append(time.perf_counter() - begin)
    return _median_and_spread(seconds[warm_ups:])


def _median_and_spread(seconds: list[float]) -> tuple[float, float]:
    low, median, high = np.percentile(seconds, (25, 50, 75)).tolist()
    return median, high - low


class Stages:
    """Measures the stages of a model.

    Attributes:
        found: a row for each stage: ms, spread_ms, share_of_ceiling where a ceiling limits it, and more figures.
    """

    def __init__(self, model: Model, rounds: int) -> None:
        self._model, self._rounds = model, rounds
        self.found: dict[str, dict[str, float]] = {}

    def measure(self) -> dict[str, dict[str, float]]:
        bandwidth, gemm = self._ceilings()
        vision = self._put("vision tower", self._vision(), self._vision_flops() / gemm)
        model, decoder = self._model, self._model.decoder
        cache, rows = decoder.new_cache(model.context + 300), model.rows(model.prefix)

        def prefill() -> None:
            cache.length = 0
            decoder.extend(cache, rows)

        def question() -> None:
            cache.length = model.prefix
            decoder.extend(cache, rows[:QUESTION])

        first = self._put("prefill", self._time(prefill), self._prefill_flops() / gemm, rows=model.prefix)
        second = self._put("second question", self._time(question), self._step_bytes(1) / bandwidth)
        self._put("time to first token", (vision[0] + first[0] + second[0], vision[1] + first[1]))
        steps = {batch: self._step(batch) for batch in (1, 2, 4, 8)}
        for batch, step in steps.items():
            rate = round(batch / step[0], 1)
            self._put(f"decode step, batch {batch}", step, self._step_bytes(batch) / bandwidth, tokens_per_s=rate)
        loop = self._loop(cache)
        self._put("decode loop of the SDK, per token", loop, overhead=round(loop[0] / steps[1][0] - 1, 4))
        return self.found

    def _put(self, name: str, seconds: tuple[float, float], floor: float = 0.0, **more: float) -> tuple[float, float]:
        share = {"share_of_ceiling": round(floor / seconds[0], 3)} if floor else {}
        times = {"ms": round(1000 * seconds[0], 4), "spread_ms": round(1000 * seconds[1], 4)}
        self.found[name] = {**times, **share, **more}
        return seconds

    def _time(self, action: Callable[[], object]) -> tuple[float, float]:
        return timed(action, self._model.device, self._rounds)

    def _ceilings(self) -> tuple[float, float]:
        """Return (bytes/s of reading, 16-bit FLOP/s) that torch reaches here."""
        device, tiny = self._model.device, self._model.tiny
        size, side = (1 << 16, 64) if tiny else (1 << 31, 8192)
        read = self._time(torch.ones(size // 4, device=device).sum)
        self._put("read bandwidth", read, gb_per_s=round(size / read[0] / 1e9, 1))
        left, right = (torch.randn(side, side, device=device).half() for _ in range(2))
        product = self._time(lambda: left @ right)
        self._put("16-bit GEMM", product, tflops=round(2 * side**3 / product[0] / 1e12, 4))
        return size / read[0], 2 * side**3 / product[0]

    def _vision_shape(self) -> tuple[int, int, int]:
        """Return (width, layers, patches) of CLIP-L/14-336 without its last layer."""
        return (64, 1, 16) if self._model.tiny else (1024, 23, 576)

    def _vision(self) -> tuple[float, float]:
        """Time the tower and the projector with random weights, in float16 on a GPU."""
        width, layers, patches = self._vision_shape()
        device, out = self._model.device, self._model.llama.geometry.hidden_size
        block = nn.TransformerEncoderLayer(
            width, width // 64, 4 * width, activation="gelu", batch_first=True, norm_first=True, dropout=0.0
        )
        tower = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        projector = nn.Sequential(nn.Linear(width, out), nn.GELU(), nn.Linear(out, out))
        cut, side = nn.Conv2d(3, width, 14, 14), 14 * round(patches**0.5)
        dtype = torch.float16 if device == "cuda" else torch.float32
        network = nn.ModuleList([cut, tower, projector]).to(device, dtype).eval()
        picture = torch.randn(1, 3, side, side, device=device, dtype=dtype)
        return self._time(lambda: network[2](network[1](network[0](picture).flatten(2).transpose(1, 2))))

    def _vision_flops(self) -> float:
        width, layers, patches = self._vision_shape()
        out = self._model.llama.geometry.hidden_size
        projector = width * out + out**2
        return float(2 * patches * (12 * width**2 * layers + projector) + 4 * patches**2 * width * layers)

    def _prefill_flops(self) -> float:
        g, count = self._model.llama.geometry, self._model.prefix
        weights = sum(w.inputs * w.outputs for layer in self._model.llama.layers for w in layer.linears)
        return float(2 * count * weights + 2 * count**2 * g.heads * g.head_size * g.layers)

    def _step_bytes(self, batch: int) -> float:
        """Return the bytes that one step reads: all weights, and the keys and values of every sequence."""
        llama = self._model.llama
        g, weights = llama.geometry, sum(w.nbytes() for layer in llama.layers for w in layer.linears)
        row = 4 * g.layers * g.kv_heads * g.head_size
        return float(weights + llama.head.nbytes + batch * self._model.context * row)

    def _step(self, batch: int) -> tuple[float, float]:
        """Time one step on the device whose tokens stay there, as `greedy` replays it."""
        decoder, context = self._model.decoder, self._model.context
        pool = decoder.new_pool(context + 300, batch)
        pool.lengths[:] = [context] * batch
        count = 1 if self._model.tiny else 16
        median, spread = self._time(lambda: decoder.replay_steps(pool, [5] * batch, count))
        return median / count, spread / count

    def _loop(self, cache: Any) -> tuple[float, float]:
        """Time a token of `Generation`, as `Analyzer` runs it, from the second token on."""
        count = 4 if self._model.tiny else 128

        def run() -> float:
            cache.length = self._model.context - count // 2
            tokens = Generation(self._model.decoder, cache, [5], stop_ids=(), max_new_tokens=count + 1)
            next(tokens)
            begin = time.perf_counter()
            assert sum(1 for _ in tokens) == count
            return (time.perf_counter() - begin) / count

        run()
        return _median_and_spread([run() for _ in range(max(3, self._rounds))])

"""Compare precisions on this CPU: one matrix product of the decoder, and the layers of the vision tower.

    python benchmarks/cpu_precision.py product [--rows 650] [--rounds 5]     # 4096 inputs, 11008 outputs
    python benchmarks/cpu_precision.py vision [--layers 3] [--rounds 5]      # CLIP-L/14-336: 577 rows of 1024
    ... --cpu-time      # one thread and its CPU seconds, on which other processes have little effect

The weights are random and the same in every precision. ONNX Runtime computes all precisions once per round. Each result
must be within its tolerance of float32.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sdk.onnx_session import load_onnxruntime

onnxruntime = load_onnxruntime()

GROUP, SETTLE_SECONDS = 128, 0.3  # until the threads of the previous session stop spinning
WIDTH, INNER, HEADS, TOKENS = 1024, 4096, 16, 577


@dataclass
class Graph:
    """Nodes and weights of a graph under construction; `linear` appends y = x W in one precision."""

    linear: Callable[..., None]
    threads: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def weight(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, domain: str = "com.microsoft", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def session(self, result: str) -> onnxruntime.InferenceSession:
        ends = ([helper.make_tensor_value_info(name, 1, [1, "rows", None])] for name in ("x", result))
        graph = helper.make_graph(self.nodes, "precision", *ends, self.weights)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, self.threads
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def float32(graph: Graph, x: str, y: str, weight: np.ndarray) -> None:
    graph.node("MatMul", [x, graph.weight(f"{y}.w", weight)], y, domain="")


def integers(largest: int) -> Callable[..., None]:
    """Return a layer of u8 activations and s8 weights with one scale per output.

    Without VNNI, sums of two products saturate at 16 bits; weights of at most 63 cannot saturate them.
    """

    def linear(graph: Graph, x: str, y: str, weight: np.ndarray) -> None:
        scales = np.abs(weight).max(0) / largest
        values = graph.weight(f"{y}.w", np.rint(weight / scales).astype(np.int8))
        graph.node("DynamicQuantizeMatMul", [x, values, graph.weight(f"{y}.s", scales)], y)

    return linear


def blocks(bits: int, level: int) -> Callable[..., None]:
    """Return a MatMulNBits layer with one scale per 128 inputs; level 4 multiplies bytes, level 1 multiplies floats."""

    def linear(graph: Graph, x: str, y: str, weight: np.ndarray) -> None:
        outputs, half = weight.shape[1], 2 ** (bits - 1)
        grouped = weight.T.reshape(outputs, -1, GROUP)
        scales = np.abs(grouped).max(2) / (half - 1)
        values = (np.rint(grouped / scales[..., None]) + half).astype(np.uint8)
        packed = values if bits == 8 else values[..., ::2] | values[..., 1::2] << 4
        sizes = {"K": len(weight), "N": outputs, "bits": bits, "block_size": GROUP, "accuracy_level": level}
        graph.node("MatMulNBits", [x, graph.weight(f"{y}.w", packed), graph.weight(f"{y}.s", scales)], y, **sizes)

    return linear


PRECISIONS = {  # with the largest relative error that rounding explains
    "float32": (float32, 0.0),
    "int8, 7-bit weights": (integers(63), 0.03),
    "8 bits in blocks, bytes": (blocks(8, 4), 0.02),
    "4 bits in blocks, bytes": (blocks(4, 4), 0.2),
    "4 bits in blocks, floats": (blocks(4, 1), 0.2),
}


def random_weight(name: str, inputs: int, outputs: int) -> np.ndarray:
    random = np.random.default_rng(list(name.encode()))
    return random.standard_normal((inputs, outputs), np.float32) / np.float32(inputs**0.5)


def product(linear: Callable[..., None], threads: int) -> onnxruntime.InferenceSession:
    graph = Graph(linear, threads)
    linear(graph, "x", "y", random_weight("gate", 4096, 11008))
    return graph.session("y")


def tower(linear: Callable[..., None], threads: int, layers: int) -> onnxruntime.InferenceSession:
    """Layers of CLIP-L without the parts that take almost no time: biases, patches, the first norm."""
    graph, x = Graph(linear, threads), "x"
    one, zero = (graph.weight(name, np.full(WIDTH, value, np.float32)) for name, value in (("one", 1), ("zero", 0)))

    def apply(name: str, given: str, inputs: int, outputs: int) -> str:
        linear(graph, given, name, random_weight(name, inputs, outputs))
        return name

    for layer in range(layers):
        normed = graph.node("LayerNormalization", [x, one, zero], f"n{layer}", domain="", axis=-1)
        query, key, value = (apply(f"{part}{layer}", normed, WIDTH, WIDTH) for part in "qkv")
        attended = graph.node("MultiHeadAttention", [query, key, value], f"a{layer}", num_heads=HEADS)
        x = graph.node("Add", [x, apply(f"o{layer}", attended, WIDTH, WIDTH)], f"x{layer}", domain="")
        normed = graph.node("LayerNormalization", [x, one, zero], f"m{layer}", domain="", axis=-1)
        inner = graph.node("QuickGelu", [apply(f"up{layer}", normed, WIDTH, INNER)], f"g{layer}", alpha=1.702)
        x = graph.node("Add", [x, apply(f"down{layer}", inner, INNER, WIDTH)], f"y{layer}", domain="")
    return graph.session(x)


def compare(
    open_session: Callable[..., onnxruntime.InferenceSession], shape: tuple[int, ...], rounds: int, cpu_time: bool
) -> dict[str, dict[str, float]]:
    """Return milliseconds, speed relative to float32 (median over rounds) and relative error of each precision."""
    clock, threads = (time.process_time, 1) if cpu_time else (time.perf_counter, 0)
    sessions = {name: open_session(linear, threads) for name, (linear, _) in PRECISIONS.items()}
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    results = {name: session.run(None, {"x": x})[0] for name, session in sessions.items()}  # also warms up
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            time.sleep(SETTLE_SECONDS)
            begin = clock()
            session.run(None, {"x": x})
            times[name].append(1000 * (clock() - begin))
    found: dict[str, dict[str, float]] = {}
    exact = results["float32"]
    for name, spent in times.items():
        error = float(np.linalg.norm(results[name] - exact) / np.linalg.norm(exact))
        assert error <= PRECISIONS[name][1], (
            f"{name} differs from float32 by {error:.1%}, at most {PRECISIONS[name][1]:.0%}"
        )
        faster = statistics.median(a / b for a, b in zip(times["float32"], spent, strict=True))
        found[name] = {"ms": statistics.median(spent), "faster": round(faster, 3), "error": round(error, 4)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("product", "vision"))
    parser.add_argument("--rows", type=int, default=650)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="one thread, CPU seconds")
    args = parser.parse_args()
    if args.what == "product":
        flops = 2 * args.rows * 4096 * 11008
        found = compare(product, (1, args.rows, 4096), args.rounds, args.cpu_time)
    else:
        flops = args.layers * (2 * TOKENS * 12 * WIDTH**2 + 4 * TOKENS**2 * WIDTH)
        found = compare(partial(tower, layers=args.layers), (1, TOKENS, WIDTH), args.rounds, args.cpu_time)
    for name, row in found.items():
        row["gflops"] = round(flops / row["ms"] / 1e6, 1)
        print(f"{name:26}{row['ms']:9.1f} ms {row['gflops']:7.0f} GFLOP/s {row['faster']:6.2f}x {row['error']:8.2%}")
    print(json.dumps({"benchmark": f"cpu_precision {args.what}", "rounds": args.rounds, "forms": found}))


if __name__ == "__main__":
    main()

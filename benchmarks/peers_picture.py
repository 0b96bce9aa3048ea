"""Compare whole answers about a picture with llama.cpp's mtmd, from pixels to the last token, on the same weights.

    pip install -e '.[cpu,export,peers]'
    python benchmarks/peers_picture.py [--layers 4] [--rounds 3] [--peers llama.cpp ...] [--folder build/peers]

LLaVA-1.5's shape with random weights: CLIP ViT-L/14-336 and the projector in float16, N layers of Vicuna-7B and the
head in int4. 36 tokens come before the 576 rows of the picture and 14 after them. Times are those until the first token
and until answers of 60 and 200 tokens end. The tokens are given, nothing is drafted, and the landmark row, which mtmd
does not have, is left out. Each peer has its own process; they alternate, and their logits are compared.
"""

import argparse
import ctypes
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import peer_decoders
import peers
from full_size_checkpoint import FULL, LANDMARKS, write_checkpoint
from peer_weights import prepare
from vicuna import PREFIX, QUESTION

from export.graphs.write import write_vision
from sdk.arrays import Floats, Pixels
from sdk.bench.machine import processor
from sdk.faces.preprocess import clip_pixels
from sdk.files import replacing
from sdk.runtime.backends.ort import OrtEncoder
from trainer.checkpoint import Checkpoint
from trainer.model.config import ImageStatistics

SIDE, ROWS = 336, 576
BEFORE, AFTER = PREFIX - ROWS, QUESTION  # tokens around the picture
LENGTHS = (1, 60, 200)  # of answers
RANDOM = np.random.default_rng(5)
PIXELS = RANDOM.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
IDS = RANDOM.integers(3, 32000, BEFORE + AFTER + max(LENGTHS)).tolist()


class _Ours:
    """The runtime's vision encoder before a decoder of `peer_decoders`."""

    def __init__(self, root: Path, layers: int, threads: int) -> None:
        super().__init__(prepare(root, "ours", layers, 8), layers, threads)
        self._vision = OrtEncoder(encoder(root) / "vision.onnx", threads)

    def read(self, pixels: Pixels) -> Floats:
        """(vocabulary,) logits after the tokens before a (336, 336, 3) uint8 RGB picture, its rows and those after."""
        clip = ImageStatistics()
        picture = clip_pixels(pixels, size=SIDE, mean=clip.mean, std=clip.std, aspect="pad")
        rows = self._vision(picture[None], np.zeros((1, LANDMARKS), np.float32))[0, :ROWS]
        self._cache.length = 0
        self._decoder.extend(self._cache, np.concatenate([self._decoder.embed(IDS[:BEFORE]), rows]))
        return self.extend(BEFORE + ROWS, IDS[BEFORE : BEFORE + AFTER])


class Ours(_Ours, peer_decoders.Ours):
    """The runtime on ONNX Runtime."""


class OursOnOpenVino(_Ours, peer_decoders.OursOnOpenVino):
    """The same with the decoder on OpenVINO."""


class Mtmd(peer_decoders.LlamaCpp):
    """llama.cpp with its vision encoder."""

    def __init__(self, root: Path, layers: int, threads: int) -> None:
        from llama_cpp import mtmd_cpp

        super().__init__(prepare(root, "llama.cpp", layers, 8), layers, threads)
        self._mtmd = mtmd_cpp
        mtmd_cpp.mtmd_helper_log_set(peer_decoders._SILENT, None)
        options = mtmd_cpp.mtmd_context_params_default()
        options.use_gpu, options.n_threads = False, threads
        path = str(encoder(root) / "mmproj.gguf").encode()
        self._vision = mtmd_cpp.mtmd_init_from_file(path, self._model, options)
        if not self._vision:
            raise RuntimeError("mtmd cannot open the vision encoder")

    def read(self, pixels: Pixels) -> Floats:
        """As `Ours.read`."""
        self.extend(0, IDS[:BEFORE])
        chunks = self._chunks(pixels)
        try:
            picture, end = self._mtmd.mtmd_input_chunks_get(chunks, 0), ctypes.c_int32()
            if self._mtmd.mtmd_helper_eval_chunk_single(
                self._vision, self._context, picture, BEFORE, 0, peer_decoders.CONTEXT, False, ctypes.byref(end)
            ):
                raise RuntimeError("mtmd_helper_eval_chunk_single failed")
        finally:
            self._mtmd.mtmd_input_chunks_free(chunks)
        assert end.value == BEFORE + ROWS
        return self.extend(BEFORE + ROWS, IDS[BEFORE : BEFORE + AFTER])

    def _chunks(self, pixels: Pixels) -> Any:
        """A prompt that is the picture alone."""
        marker = self._mtmd.mtmd_default_marker()
        text = self._mtmd.mtmd_input_text(marker, len(marker), False, False)
        data = (ctypes.c_ubyte * pixels.size).from_buffer_copy(pixels)
        bitmap = self._mtmd.mtmd_bitmap_init(SIDE, SIDE, data)
        chunks = self._mtmd.mtmd_input_chunks_init()
        bitmaps = (self._mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        failed = self._mtmd.mtmd_tokenize(self._vision, chunks, ctypes.byref(text), bitmaps, 1)
        self._mtmd.mtmd_bitmap_free(bitmap)
        if failed:
            raise RuntimeError("mtmd_tokenize failed")
        return chunks


PEERS: dict[str, Callable[[Path, int, int], Any]] = {
    "ours": Ours,
    "ours-openvino": OursOnOpenVino,
    "llama.cpp": Mtmd,
}


def encoder(root: Path) -> Path:
    """The folder of the vision encoder in both formats, which is written if it does not exist."""
    folder = root / "encoder"
    if not folder.exists():
        with replacing(folder, folder=True) as partial:
            write_checkpoint(partial / "checkpoint", layers=1)
            checkpoint = Checkpoint(*(partial / "checkpoint" / part for part in ("adapter", "base", "clip")))
            write_vision(checkpoint, partial / "vision.onnx")
            write_mmproj(checkpoint, partial / "mmproj.gguf")
            shutil.rmtree(partial / "checkpoint")
    return folder


def write_mmproj(checkpoint: Checkpoint, path: Path) -> None:
    """Write CLIP and the projector as mtmd reads them: matrices in float16, vectors in float32.

    mtmd reads the rows of the last layer but one, as LLaVA does, and has no norm after the tower.
    """
    import gguf

    writer, shape = gguf.GGUFWriter(path, "clip"), FULL.clip
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_use_gelu(False)  # CLIP's is the quick one
    writer.add_vision_image_size(SIDE)
    writer.add_vision_patch_size(14)
    writer.add_vision_embedding_length(shape["hidden_size"])
    writer.add_vision_feed_forward_length(shape["intermediate_size"])
    writer.add_vision_block_count(shape["num_hidden_layers"])
    writer.add_vision_head_count(shape["num_attention_heads"])
    writer.add_vision_projection_dim(shape["projection_dim"])
    writer.add_vision_attention_layernorm_eps(1e-5)
    writer.add_vision_image_mean(ImageStatistics().mean)
    writer.add_vision_image_std(ImageStatistics().std)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, shape["num_hidden_layers"])
    for name in checkpoint.merged:
        if name.startswith("vision_tower.") and "post_layernorm" not in name:
            full = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
            target = names.get_name(full, try_suffixes=(".weight", ".bias"))
        elif name.startswith("mm_projector."):
            target = name.replace("mm_projector", "mm")
        else:
            continue
        values = checkpoint.merged[name].float().numpy()
        is_table = values.ndim > 1 and "position" not in name
        writer.add_tensor(target, values.astype(np.float16 if is_table else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(pipe: Connection, name: str, root: Path, layers: int, threads: int) -> None:
    """Open a peer in the child process, then answer once per message."""
    try:
        peer = PEERS[name](root, layers, threads)
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {str(error).partition(os.linesep)[0]}"))
        return
    pipe.send((True, peer.description))
    while pipe.recv():
        pipe.send((True, answer(peer)))


def answer(peer: Any) -> tuple[list[float], list[Floats]]:
    """Seconds until answers of LENGTHS tokens end, and the logits of the first token and the last."""
    begin, seconds = time.perf_counter(), []
    logits = peer.read(PIXELS)
    first = logits.copy()
    for count, token in enumerate(IDS[BEFORE + AFTER :], start=1):
        if count in LENGTHS:
            seconds.append(time.perf_counter() - begin)
        if count < max(LENGTHS):
            logits = peer.extend(PREFIX + AFTER + count - 1, [token])
    return seconds, [first, logits.copy()]


def measure(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Alternate the peers; medians and, as the median over the rounds, how many times faster ours is."""
    encoder(root)
    pipes, rows = {}, dict[str, dict[str, Any]]()
    for name in args.peers:
        pipes[name] = peers.start_process(serve, name, root, args.layers, args.threads)
        rows[name] = {"description": peers.receive(pipes[name])}
    times: dict[str, list[list[float]]] = {name: [] for name in pipes}
    logits: dict[str, list[Floats]] = {}
    for number in range(args.rounds + 1):  # the first is a warm-up
        for name, pipe in pipes.items():
            time.sleep(peers.SETTLE_SECONDS)
            pipe.send(True)
            seconds, logits[name] = peers.receive(pipe)
            print(f"{name:14}", [round(each, 2) for each in seconds], file=sys.stderr, flush=True)
            times[name] += [seconds] if number else []
    for pipe in pipes.values():
        pipe.send(None)
    for name, row in rows.items():
        pairs = zip(logits[name], logits["ours"], strict=True)
        row["logits_differ"] = max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)
        assert row["logits_differ"] <= peers.TOLERANCE, f"logits of {name} differ by {row['logits_differ']:.1%}"
        row["seconds"] = [round(statistics.median(each), 3) for each in zip(*times[name], strict=True)]
        shares = [[a / b for a, b in zip(*pair, strict=True)] for pair in zip(times[name], times["ours"], strict=True)]
        row["ours_faster"] = [round(statistics.median(each), 2) for each in zip(*shares, strict=True)]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if not all(map(find_spec, ("gguf", "llama_cpp", "openvino"))):
        parser.error("the extra peers is missing: pip install -e '.[cpu,export,peers]'")
    args.peers = list(dict.fromkeys(("ours", *args.peers)))
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args, args.folder or Path(folder))
    print(f"{args.layers} layers of Vicuna-7B, CLIP-L/14-336; {args.threads} threads; medians of {args.rounds} rounds")
    print(f"{'seconds until':14}" + "".join(f"{f'{count} tokens':>12}{'x':>6}" for count in LENGTHS) + f"{'logits':>8}")
    for name, row in rows.items():
        parts = zip(row["seconds"], row["ours_faster"], strict=True)
        cells = "".join(f"{seconds:12.2f}{ratio:6.2f}" for seconds, ratio in parts)
        print(f"{name:14}{cells}{row['logits_differ']:8.2%}  {row['description']}")
    facts = {"layers": args.layers, "threads": args.threads, "rounds": args.rounds, "machine": processor()}
    print(json.dumps({"benchmark": "peers_picture", **facts, "peers": rows}))


if __name__ == "__main__":
    main()

"""Give each peer the same interface: rewind to a position, append tokens, return the logits of the last one."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from sdk.onnx_session import load_onnxruntime
from sdk.runtime.backends.openvino_graph import load_openvino

CONTEXT = 1024


class Decoder(Protocol):
    """`description` names library and precision; a step reads `weights` bytes, and `cache` bytes per position."""

    description: str
    weights: int
    cache: int

    def extend(self, start: int, ids: Sequence[int]) -> np.ndarray:
        """Keep the first `start` positions, append tokens and return (vocabulary,) logits after the last one."""
        ...


class Ours:
    def __init__(self, folder: Path, layers: int, threads: int) -> None:
        from vicuna import random_vicuna

        self._decoder = random_vicuna(folder, layers)
        self._cache = self._decoder.new_cache(CONTEXT)
        self.description = f"ONNX Runtime {load_onnxruntime().__version__}"
        self.weights = (folder / "int4.onnx.data").stat().st_size
        self.cache = layers * 2 * 4096 * 4

    def extend(self, start: int, ids: Sequence[int]) -> np.ndarray:
        self._cache.length = start
        return self._decoder.extend(self._cache, self._decoder.embed(ids))[0]


class OursOnOpenVino(Ours):
    def __init__(self, folder: Path, layers: int, threads: int) -> None:
        from vicuna import vicuna_geometry

        from sdk.runtime.backends.openvino import OpenVinoDecoder

        path = folder / "int4.onnx"
        self._decoder = OpenVinoDecoder(path, folder / "embeddings.npy", vicuna_geometry(layers), threads)
        self._cache = self._decoder.new_cache(CONTEXT)
        self.description = f"OpenVINO {load_openvino().__version__.partition('-')[0]}, paged cache"
        self.weights = (folder / "int4.onnx.data").stat().st_size
        self.cache = layers * 2 * 4096 * 4


class OpenVino:
    """OpenVINO alone: it reads our graph as it is, and holds the cache in variables."""

    def __init__(self, folder: Path, layers: int, threads: int) -> None:
        openvino = load_openvino()
        from openvino._offline_transformations import apply_make_stateful_transformation

        core = openvino.Core()
        model = core.read_model(folder / "int4.onnx")
        parts = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
        empty = {f"past_key_values.{part}": [1, 32, openvino.Dimension(0, CONTEXT), 128] for part in parts}
        model.reshape({"inputs_embeds": [1, -1, 4096], "seqlens_k": [1], **empty})
        apply_make_stateful_transformation(model, {f"past_key_values.{part}": f"present.{part}" for part in parts})
        fastest = {"INFERENCE_PRECISION_HINT": "bf16", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "128"}
        compiled = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads, **fastest})
        self._request = compiled.create_infer_request()
        self._embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")
        self._length, self._openvino = 0, openvino
        self.description = f"OpenVINO {openvino.__version__.partition('-')[0]}, stateful"
        self.weights = (folder / "int4.onnx.data").stat().st_size
        self.cache = layers * 2 * 4096 * 4

    def extend(self, start: int, ids: Sequence[int]) -> np.ndarray:
        if start == 0:
            self._request.reset_state()
        elif start < self._length:
            for variable in self._request.query_state():
                kept = np.ascontiguousarray(variable.state.data[:, :, :start])
                variable.state = self._openvino.Tensor(kept)
        self._length = start + len(ids)
        inputs = {
            "inputs_embeds": self._embeddings[list(ids)].astype(np.float32)[None],
            "seqlens_k": np.array([self._length - 1], np.int32),
            "total_sequence_length": np.array(self._length, np.int32),
            "logit_positions": np.array([len(ids) - 1], np.int64),
        }
        return self._request.infer(inputs)["logits"].reshape(-1)


class LlamaCpp:
    def __init__(self, folder: Path, layers: int, threads: int, slots: int = 1) -> None:
        import llama_cpp

        self._lib = llama_cpp
        llama_cpp.llama_log_set(_SILENT, None)
        path = folder / "model.gguf"
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        options = llama_cpp.llama_context_default_params()
        options.n_batch = options.n_ubatch = CONTEXT
        options.n_ctx, options.n_seq_max, options.kv_unified = slots * CONTEXT, slots, False
        options.n_threads = options.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self.description = f"llama-cpp-python {llama_cpp.__version__}"
        self.weights = path.stat().st_size - self._vocabulary * 4096 * 2
        self.cache = layers * 2 * 4096 * 2

    def extend(self, start: int, ids: Sequence[int]) -> np.ndarray:
        self._lib.llama_memory_seq_rm(self._memory, 0, start, -1)
        tokens = (self._lib.llama_token * len(ids))(*ids)
        if self._lib.llama_decode(self._context, self._lib.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError("llama_decode failed")
        return self._logits(-1)

    def copy(self, slots: int) -> None:
        """Copy the first slot to the others."""
        for slot in range(1, slots):
            self._lib.llama_memory_seq_cp(self._memory, 0, slot, -1, -1)

    def step(self, start: int, ids: Sequence[int]) -> np.ndarray:
        """Keep `start` positions of the first slots, append a token to each; returns (slots, vocabulary) logits."""
        batch = self._lib.llama_batch_init(len(ids), 0, 1)
        for slot, token in enumerate(ids):
            self._lib.llama_memory_seq_rm(self._memory, slot, start, -1)
            batch.token[slot], batch.pos[slot], batch.n_seq_id[slot] = token, start, 1
            batch.seq_id[slot][0], batch.logits[slot] = slot, 1
        batch.n_tokens = len(ids)
        try:
            if self._lib.llama_decode(self._context, batch):
                raise RuntimeError("llama_decode failed")
        finally:
            self._lib.llama_batch_free(batch)
        return np.stack([self._logits(slot) for slot in range(len(ids))])

    def _logits(self, index: int) -> np.ndarray:
        return np.ctypeslib.as_array(self._lib.llama_get_logits_ith(self._context, index), (self._vocabulary,))


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _SILENT(level: int, text: bytes, user: object) -> None:  # noqa: N802
    """Drop a message; llama.cpp logs to stderr unless it gets a function."""


class Transformers:
    def __init__(self, folder: Path, layers: int, threads: int) -> None:
        import torch
        import transformers

        from trainer.model.processor import multiplies_bfloat16

        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        self._torch, self._new_cache = torch, transformers.DynamicCache
        dtype = torch.bfloat16 if multiplies_bfloat16() else torch.float32
        self._model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self._past = self._new_cache(config=self._model.config)
        self.description = f"transformers {transformers.__version__}, torch {torch.__version__}, {dtype}"
        embeddings = self._model.model.embed_tokens.weight
        self.weights = sum(w.nbytes for w in self._model.parameters()) - embeddings.nbytes
        self.cache = layers * 2 * 4096 * embeddings.itemsize

    def extend(self, start: int, ids: Sequence[int]) -> np.ndarray:
        surplus = self._past.get_seq_length() - start
        if start == 0:
            self._past = self._new_cache(config=self._model.config)
        elif surplus:
            self._past.crop(-surplus)
        with self._torch.inference_mode():
            rows = self._torch.tensor([list(ids)])
            logits = self._model(rows, past_key_values=self._past, logits_to_keep=1).logits
        return logits[0, -1].float().numpy()


class GenAI:
    def __init__(self, folder: Path, layers: int, threads: int) -> None:
        import onnxruntime_genai

        config = onnxruntime_genai.Config(str(folder))
        config.overlay(f'{{"model": {{"decoder": {{"session_options": {{"intra_op_num_threads": {threads}}}}}}}}}')
        model = onnxruntime_genai.Model(config)
        options = onnxruntime_genai.GeneratorParams(model)
        options.set_search_options(max_length=CONTEXT, past_present_share_buffer=True)
        self._generator = onnxruntime_genai.Generator(model, options)
        self.description = f"onnxruntime-genai {onnxruntime_genai.__version__}"
        self.weights = (folder / "model.onnx.data").stat().st_size - 32000 * 4096 * 4  # the float32 embeddings
        self.cache = layers * 2 * 4096 * 4

    def extend(self, start: int, ids: Sequence[int]) -> np.ndarray:
        if start < self._generator.token_count():
            self._generator.rewind_to(start)
        self._generator.append_tokens(np.asarray(ids, np.int32))
        return self._generator.get_output("logits").reshape(-1)


DECODERS = {
    "ours": Ours,
    "ours-openvino": OursOnOpenVino,
    "openvino": OpenVino,
    "llama.cpp": LlamaCpp,
    "transformers": Transformers,
    "genai": GenAI,
}

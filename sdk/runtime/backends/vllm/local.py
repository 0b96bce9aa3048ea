"""vLLM in this process as an engine: its asynchronous interface runs in a thread with an event loop."""

import asyncio
import itertools
import os
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from sdk.arrays import Floats
from sdk.errors import BackendError, DependencyError
from sdk.printable import one_line
from sdk.runtime.backends.interface import Sampling

_GPU_SHARE = 0.85  # of the memory of a GPU; vLLM's default of 0.92 leaves no room for encoders on the same GPU
_END_S = 5.0
_END = object()


class LocalVllm:
    """vLLM with the decoder of a folder.

    Args:
        folder: of a Llama in the layout of Hugging Face, quantised with GPTQ or not; it is computed in float16.
        vocabulary: number of tokens.
        longest: positions of a prompt and its answer.
        options: further arguments of vLLM's engine, such as `tensor_parallel_size`.

    Raises:
        DependencyError: vLLM is not installed.
        BackendError: vLLM cannot open the folder.
    """

    scores = True

    def __init__(self, folder: Path, vocabulary: int, longest: int, **options: Any) -> None:
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # vLLM would report the model and the machine
        try:
            import vllm
        except ImportError:
            raise DependencyError("vllm", "vllm", "decode with vLLM in this process") from None
        self._vllm, self._vocabulary = vllm, vocabulary
        self._numbers = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        settings: dict[str, Any] = {
            "model": str(folder),
            "skip_tokenizer_init": True,
            "enable_prompt_embeds": True,
            "enable_prefix_caching": True,
            "max_model_len": longest,
            "max_logprobs": -1,
            "dtype": "half",
            "gpu_memory_utilization": _GPU_SHARE,
            **options,
        }
        try:
            self._engine = self._wait(self._open(settings))
        except Exception as error:  # vLLM and what it loads raise many types
            self._stop_loop()
            raise BackendError(f"vLLM cannot open {folder}: {one_line(error)}") from error

    def tokens(self, rows: Floats, sampling: Sampling, stop_ids: Sequence[int], limit: int) -> Iterator[int]:
        choice = self._choice(
            temperature=max(sampling.temperature, 0.0),
            top_p=sampling.top_p,
            seed=sampling.seed,
            stop_token_ids=list(stop_ids),
            max_tokens=limit,
        )
        for output in self._outputs(rows, choice):
            yield from output.token_ids

    def log_probabilities(self, rows: Floats) -> Floats:
        choice = self._choice(temperature=0.0, max_tokens=1, logprobs=-1)
        values = np.full(self._vocabulary, -np.inf, np.float32)
        for output in self._outputs(rows, choice):
            for token, found in output.logprobs[0].items():
                values[token] = found.logprob
        return values

    def close(self) -> None:
        """Stop vLLM's processes and the thread."""
        self._engine.shutdown()
        self._stop_loop()
        del self._engine  # its destructor fails when the interpreter ends

    async def _open(self, settings: dict[str, Any]) -> Any:
        from vllm.v1.engine.async_llm import AsyncLLM

        return AsyncLLM.from_engine_args(self._vllm.AsyncEngineArgs(**settings))

    def _choice(self, **options: Any) -> Any:
        from vllm.sampling_params import RequestOutputKind

        kind = RequestOutputKind.DELTA
        return self._vllm.SamplingParams(**options, ignore_eos=True, detokenize=False, output_kind=kind)

    def _outputs(self, rows: Floats, choice: Any) -> Iterator[Any]:
        """The pieces of an answer, as they come; closing the iterator ends the request."""
        import torch

        found: queue.SimpleQueue[Any] = queue.SimpleQueue()
        prompt = {"prompt_embeds": torch.from_numpy(np.array(rows))}
        work = self._start(self._put(self._engine.generate(prompt, choice, f"emola-{next(self._numbers)}"), found))
        try:
            while (item := found.get()) is not _END:
                yield item
            work.result()
        except Exception as error:  # vLLM raises many types
            raise BackendError(f"vLLM failed: {one_line(error)}") from error
        finally:
            work.cancel()

    async def _put(self, outputs: AsyncIterator[Any], found: "queue.SimpleQueue[Any]") -> None:
        try:
            async for output in outputs:
                found.put(output.outputs[0])
        finally:
            found.put(_END)

    def _start(self, work: "Coroutine[Any, Any, Any]") -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, work: "Coroutine[Any, Any, Any]") -> Any:
        return self._start(work).result()

    def _stop_loop(self) -> None:
        self._wait(_end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _end_tasks() -> None:
    """Cancel the other tasks of the loop, and wait some seconds for them."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_END_S)

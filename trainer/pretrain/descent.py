"""Gradient descent for the small networks of the pretraining."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Batch = TypeVar("Batch")

LOG_INTERVAL = 50  # steps
WARM_UP = 0.05  # share of the steps


def minimise(
    loss_of: Callable[[Batch], Tensor],
    epoch: Callable[[], Iterator[Batch]],
    optimizers: list[torch.optim.Optimizer],
    steps: int,
    log: Callable[[dict[str, Any]], None],
    *,
    bfloat16: bool,
) -> None:
    """Descend with a linear warm-up over the first 5 % of the steps and a cosine to zero.

    Args:
        loss_of: the loss of a batch.
        epoch: the batches of one epoch; called as often as the steps need it.
        optimizers: their learning rates are the peaks of the schedule.
        log: told step, loss and seconds every 50 steps.
        bfloat16: multiply in bfloat16.
    """
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    begin, total, device = time.perf_counter(), torch.zeros((), device=parameters[0].device), parameters[0].device.type
    batches_of_all_epochs = itertools.chain.from_iterable(epoch() for _ in itertools.count())
    for step, batch in zip(range(steps), batches_of_all_epochs, strict=False):
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = _schedule(step, steps) * peak
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            loss = loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        total += loss.detach()  # reading it would wait for the device in every step
        if (step + 1) % LOG_INTERVAL == 0:
            seconds = round(time.perf_counter() - begin, 1)
            log({"step": step + 1, "of": steps, "loss": round(total.item() / LOG_INTERVAL, 4), "seconds": seconds})
            total.zero_()


def _schedule(step: int, steps: int) -> float:
    """Learning rate of a step over its peak."""
    return min(1.0, (step + 1) / (WARM_UP * steps + 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))

"""The plan of this machine: that of the target it is, or one from ceilings that are measured on it."""

import math
from dataclasses import dataclass
from pathlib import Path

from export.targets.machines import TARGETS, Target, find_target, recognise
from export.targets.plan import Plan, encoder_weights, plan, workload_of
from sdk.bench.ceilings import measure_ceilings
from sdk.bench.machine import environment
from sdk.bundles.manifest import Manifest
from sdk.runtime.backends.interface import Backend


@dataclass(frozen=True)
class PlanHere:
    """A plan and where it comes from; without a plan, why there is none."""

    plan: Plan | None
    source: str


def plan_here(bundle: Path, manifest: Manifest, backend: Backend, target: str | None) -> PlanHere:
    """Plan an opened bundle on this machine.

    Args:
        bundle: its folder.
        manifest: its manifest.
        backend: the opened variant.
        target: key of the target that this machine is; None: a GPU finds out by its name, and what runs on the CPU
            alone is planned from measured ceilings.

    Raises:
        ExportError: there is no such target, or the manifest is too old to plan from.
    """
    weights = encoder_weights(bundle, manifest)
    on_cpu = not backend.on_gpu
    if target is None and on_cpu:
        return _measured(manifest, backend, weights)
    name = target or recognise(machine_name())
    if name is None:
        known = ", ".join(TARGETS)
        return PlanHere(None, f"{machine_name()} is not a known target; name the nearest with --target ({known})")
    found = find_target(name)
    return PlanHere(plan(name, found, workload_of(manifest, weights)), f"data sheet of {found.title} (target {name})")


def machine_name() -> str:
    """The names that the board and the first NVIDIA GPU of this machine call themselves by."""
    found = environment()
    names = (found.get("board"), found.get("nvidia driver", "").split(",")[0])
    return ", ".join(name for name in names if name) or "a machine without a name"


def _measured(manifest: Manifest, backend: Backend, weights: int) -> PlanHere:
    """A plan from the bandwidth and arithmetic that the CPU reaches now, with the shares of the target `cpu`."""
    ceilings, usual = measure_ceilings(manifest, backend.variant), TARGETS["cpu"]
    bandwidth, floats = ceilings.bandwidth_gbs or 0.0, (ceilings.float32_gflops or 0.0) / 1000
    tflops = max((ceilings.int4_gflops or 0.0) / 1000, floats)
    this = Target(
        title="this CPU",
        sm=None,
        memory_gb=math.inf,
        bandwidth_gbs=bandwidth,
        tflops=tflops,
        tensorrt=None,
        decode_share=usual.decode_share,
        decode_reason=usual.decode_reason,
        prefill_share=usual.prefill_share,
        encoder_tflops=floats,
    )
    source = (
        f"ceilings measured on this CPU: {bandwidth:.1f} GB/s, {1000 * floats:.0f} GFLOP/s in float32, "
        f"{1000 * tflops:.0f} in the decoder"
    )
    return PlanHere(plan("here", this, workload_of(manifest, weights, backend.variant)), source)

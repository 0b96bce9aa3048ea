"""`report.html`: the figures of an export with plots, in one file without dependencies."""

import base64
import html
import io
from pathlib import Path

from matplotlib.figure import Figure

from sdk.bundles.manifest import Manifest
from sdk.files import write_file
from sdk.html import page, table

_PARITY = ("variant", "stage", "relative error", "allowed", "largest error", "cosine", "first tokens", "all tokens")
_LATENCY = ("variant", "stage", "p50 ms", "p95 ms")


def write_report(manifest: Manifest, path: Path, *, allowed: bool = False) -> None:
    """Write the report of a bundle.

    Args:
        manifest: with parity, latency, quantised layers and gate.
        path: of the report.
        allowed: the bundle may fall short of the thresholds.
    """
    verdict, parity, latency = _verdict(manifest, allowed), _parity_rows(manifest), _latency_rows(manifest)
    latency_plot = [_plot_latency(manifest)] if manifest.latency else []
    layers_plot = ["<h2>Quantisation, layer by layer</h2>", _plot_layers(manifest)] if manifest.layers else []
    facts = {**manifest.provenance, **manifest.environment}
    parts = [
        verdict,
        table("Parity with torch, and the share of greedy tokens that are equal", _PARITY, parity),
        table("Latency on this machine", _LATENCY, latency),
        *latency_plot,
        *layers_plot,
        table("Made from and measured on", ("", ""), sorted(facts.items())),
    ]
    write_file(path, page(manifest.name, parts))


def _verdict(manifest: Manifest, allowed: bool) -> str:
    gate = manifest.gate
    if gate is None:
        return "<p>The bundle was not judged.</p>"
    lines = [f'<p class="bad">{html.escape(failure)}</p>' for failure in gate.shortfalls]
    lines += ["<p class=bad>Overruled with --allow.</p>"] if lines and allowed else []
    met = "Every threshold that was judged is met." if gate.unjudged else "Every threshold is met."
    lines = lines or [f'<p class="good">{met}</p>']
    lines += [f"<p>Not judged: {html.escape(line)}</p>" for line in gate.unjudged]
    if gate.rege:
        r = gate.rege
        torch = f"torch ({r.computed})" if r.computed else "torch"
        lines.append(
            f"<p>REGE ({r.task}, {r.dataset}, {r.samples} samples): {torch} {r.reference:.2f}, "
            f"bundle {r.measured:.2f}, difference {r.difference:+.2f} "
            f"(95 %: {r.low:+.2f} .. {r.high:+.2f}, p = {r.p_value:.3f})</p>"
        )
    return "".join(lines)


def _parity_rows(manifest: Manifest) -> list[tuple[str, ...]]:
    return [
        (
            *(p.variant, p.stage, f"{p.relative_error:.1e}", f"{p.tolerance:.0e}", f"{p.max_error:.1e}"),
            *("" if p.cosine is None else f"{p.cosine:.6f}", _share(p.first_tokens), _share(p.agreement)),
        )
        for p in manifest.parity
    ]


def _latency_rows(manifest: Manifest) -> list[tuple[str, ...]]:
    return [(x.variant, x.stage, f"{x.p50_ms:.2f}", f"{x.p95_ms:.2f}") for x in manifest.latency]


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _plot_latency(manifest: Manifest) -> str:
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots()
    stages = [x.stage for x in manifest.latency]
    axes.barh(stages, [x.p95_ms for x in manifest.latency], color="#cfd8e6", label="p95")
    axes.barh(stages, [x.p50_ms for x in manifest.latency], color="#41608f", height=0.5, label="p50")
    axes.set(xlabel="ms", xscale="log")
    axes.invert_yaxis()
    axes.legend()
    return _image(figure)


def _plot_layers(manifest: Manifest) -> str:
    """The relative output error of each linear layer and the seconds of each decoder layer, over the depth."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    layers = manifest.layers
    for name in layers[0].errors:
        upper.plot([100 * layer.errors[name] for layer in layers], marker=".", label=name)
    upper.set(ylabel="relative error of outputs (%)", ylim=(0, None))
    upper.legend(fontsize="small", ncols=2)
    lower.bar(range(len(layers)), [layer.seconds for layer in layers], color="#41608f")
    lower.set(xlabel="layer", ylabel="seconds")
    return _image(figure)


def _image(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return f'<img alt="plot" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'

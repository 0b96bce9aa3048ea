"""Show a report as text, or as an HTML page with plots in SVG."""

import html
import math
from collections.abc import Iterator, Sequence

from sdk.bench.compare import Change
from sdk.bench.report import Footprint, Report, Stage
from sdk.html import page, table

_COLUMNS = ("stage", "median ms", "p95 ms", "floor ms", "share of ceiling")
_LEFT, _WIDTH, _ROW = 90, 640, 22  # pixels


def text(report: Report, changes: Sequence[Change] = ()) -> str:
    """The report as lines for a terminal."""
    lines = [f"{report.model} on {report.variant}, {len(report.stages[0].rounds)} rounds", ""]
    lines.append("{:10} {:>10} {:>10} {:>10}  {}".format(*_COLUMNS))
    lines += ["{:10} {:>10} {:>10} {:>10}  {}".format(*_row(stage)) for stage in report.stages]
    lines += ["", *(f"{name:18} {value}" for name, value in facts(report))]
    if changes:
        lines += ["", f"{'change':18} new / old, each over the control of its round (99 % interval)"]
        lines += [
            f"{c.stage:18} {c.ratio:.2f} ({c.low:.2f} .. {c.high:.2f})  {c.verdict}, without control {c.raw:.2f}"
            for c in changes
        ]
    return "\n".join(lines)


def facts(report: Report) -> Iterator[tuple[str, str]]:
    """Yield name and value of everything outside the table of stages."""
    ceilings, energy = report.ceilings, report.energy
    if report.steps_per_second:
        yield "tokens per second", f"{report.steps_per_second:.1f}, one for each decode step"
    if report.tokens_per_second:
        yield (
            "with drafts",
            f"{report.tokens_per_second:.1f} tokens per second of `analyze`; drafted and forced ones count",
        )
    per_joule = energy.tokens_per_joule
    yield "tokens per joule", f"{per_joule:.2f} ({energy.source})" if per_joule else energy.source
    if ceilings.bandwidth_gbs:
        size = f"{ceilings.working_set_mb:.1f} MB read repeatedly, numpy matrix by vector"
        yield "bandwidth", f"{ceilings.bandwidth_gbs:.1f} GB/s ({size})"
    if ceilings.float32_gflops:
        yield "float32 peak", f"{ceilings.float32_gflops:.0f} GFLOP/s (numpy, 512 x 2048 x 2048)"
    if ceilings.int4_gflops:
        yield "int4 peak", f"{ceilings.int4_gflops:.0f} GFLOP/s (MatMulNBits, 256 x 4096 x 4096)"
    if ceilings.reason:
        yield "ceilings", ceilings.reason
    for footprint in report.footprints:
        yield footprint.variant, _footprint(footprint)
    for stage, error in report.parity.items():
        yield f"parity {stage}", f"relative error {error:.1e}, within the tolerance"
    yield from report.environment.items()
    for name, value in (report.peers or {}).items():
        yield f"peers: {name}", f"{value}"


def html_page(report: Report, changes: Sequence[Change] = ()) -> bytes:
    """The report as a self-contained HTML page."""
    parts = [f'<p class="bad">{html.escape(report.notice)}</p>'] if report.notice else []
    parts += [f"<p>{html.escape(f'{report.variant}, digest {report.digest[:12]}, {report.made}')}</p>"]
    parts += [table("Stages", _COLUMNS, map(_row, report.stages)), _bars(report.stages)]
    if changes:
        rows = [(c.stage, f"{c.ratio:.2f}", f"{c.low:.2f} .. {c.high:.2f}", f"{c.raw:.2f}", c.verdict) for c in changes]
        columns = ("stage", "new / old, over the control", "99 % interval", "without control", "verdict")
        parts.append(table("Change from the earlier run", columns, rows))
    parts += ["<h2>Round by round</h2>", *(_strip(stage) for stage in report.stages)]
    parts.append(table("Limits, memory and environment", ("", ""), facts(report)))
    return page(f"emola bench: {report.model}", parts)


def _row(stage: Stage) -> tuple[str, str, str, str, str]:
    floor, share = stage.floor, stage.share
    floor_ms = f"{floor.ms:.3f}" if floor else ""
    reached = f"{100 * share:.0f} % ({floor.bound})" if floor and share else ""
    return stage.name, f"{stage.median_ms:.3f}", f"{stage.p95_ms:.3f}", floor_ms, reached


def _footprint(found: Footprint) -> str:
    """Weights, times and memory of a variant; unknown values are left out."""
    if found.failure:
        return f"does not run here: {found.failure}"
    times = (("imported", found.import_ms), ("opened", found.open_ms), ("first token", found.first_token_ms))
    sizes = (("opened", found.opened_mb), ("mapped files", found.mapped_mb), ("peak", found.peak_mb))
    parts = [f"{name} after {value:.0f} ms" for name, value in (*times, ("done", found.done_ms)) if value is not None]
    parts += [f"{name} {value:.0f} MB" for name, value in sizes if value is not None]
    return f"weights {found.weights_mb:.1f} MB; " + ", ".join(parts)


def _bars(stages: Sequence[Stage]) -> str:
    """Draw median (dark), 95th percentile (light) and floor (a mark) of each stage on a logarithmic axis."""
    low = min(min(stage.median_ms, stage.floor.ms if stage.floor else stage.median_ms) for stage in stages) / 1.5
    decades = max(stage.p95_ms for stage in stages) / low

    def x(ms: float) -> float:
        return _LEFT + (_WIDTH - _LEFT) * math.log(ms / low) / math.log(decades)

    drawn = []
    for index, stage in enumerate(stages):
        y = _ROW * index
        drawn.append(_label(stage.name, y))
        for ms, colour, height in ((stage.p95_ms, "#cfd8e6", 16), (stage.median_ms, "#41608f", 8)):
            drawn.append(_rect(_LEFT, y + 11 - height / 2, x(ms) - _LEFT, height, colour, f"{stage.name}: {ms:.3f} ms"))
        if stage.floor:
            drawn.append(_rect(x(stage.floor.ms) - 1, y + 2, 2, 18, "#b00020", f"floor: {stage.floor.ms:.3f} ms"))
    caption = "<p>Dark: median; light: 95th percentile; red: minimum at the ceilings of this machine. Logarithmic.</p>"
    return _svg(_ROW * len(stages), drawn) + caption


def _strip(stage: Stage) -> str:
    """Draw every visit as a point over its round, to show drift and outliers."""
    top, height = max(stage.samples), 60
    step = (_WIDTH - _LEFT) / len(stage.rounds)
    points = [
        f'<circle cx="{_LEFT + step * (index + 0.5):.1f}" cy="{height - 4 - (height - 8) * ms / top:.1f}" r="2" '
        'fill="#41608f" fill-opacity="0.5"/>'
        for index, visits in enumerate(stage.rounds)
        for ms in visits
    ]
    labels = [
        _label(stage.name, 0),
        _label(f"{top:.2f} ms", 18),
        _rect(_LEFT, height - 4, _WIDTH - _LEFT, 1, "#ddd", "0"),
    ]
    return _svg(height, [*labels, *points])


def _svg(height: float, drawn: Sequence[str]) -> str:
    size = f'viewBox="0 0 {_WIDTH + 10} {height}" width="{_WIDTH + 10}" height="{height}"'
    return f'<svg {size} font-size="12" style="display:block">{"".join(drawn)}</svg>'


def _label(words: str, y: float) -> str:
    return f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{html.escape(words)}</text>'


def _rect(x: float, y: float, width: float, height: float, colour: str, title: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{colour}"><title>{html.escape(title)}</title></rect>'

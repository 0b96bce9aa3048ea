"""A table with the published rows and ours, as Markdown, CSV and an HTML page with plots."""

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from sdk.errors import DependencyError
from sdk.files import write_file
from sdk.html import page, table
from trainer.evaluation.evaluate import NOUN_DATASET
from trainer.paper.experiments import Study
from trainer.paper.figures import Figure
from trainer.paper.published import FIGURES, SOURCE, TABLES, PublishedRow, units

OURS = "this run"
_PROTOCOL = "This run is scored by the protocol of the authors' evaluation code (`official` of `emola evaluate`)."
_NOUNS = "The accuracy of this run is of the emotion that the SDK reads from each answer."


@dataclass(frozen=True)
class Report:
    """What is shown.

    Attributes:
        name, title, note: of the table.
        columns, main: as in `PublishedTable`.
        published: rows of the paper.
        ours: finished rows: name and figures by column.
        unfinished: names of our rows that were not run or not to the end.
    """

    name: str
    title: str
    note: str
    columns: Sequence[str]
    main: Sequence[str]
    published: Sequence[PublishedRow]
    ours: Sequence[tuple[str, Mapping[str, Figure]]]
    unfinished: Sequence[str]

    @classmethod
    def of(cls, study: Study, rows: Sequence[tuple[str, Mapping[str, Figure] | None]]) -> "Report":
        """A report on our rows; None marks an unfinished one."""
        ours = [(name, figures) for name, figures in rows if figures is not None]
        unfinished = [name for name, figures in rows if figures is None]
        known = TABLES.get(study.name)
        if known:
            title = f"Table {known.number}: {known.title}"
            return cls(study.name, title, known.note, known.columns, known.main, known.rows, ours, unfinished)
        columns, main = _columns(study)
        return cls(study.name, study.title, study.note, columns, main, (), ours, unfinished)

    def cells(self) -> list[list[str]]:
        """The rows as texts: method, source and a cell per column."""
        rows = [[row.method, row.reference, *map(_number, row.values)] for row in self.published]
        for name, figures in self.ours:
            rows.append([name, OURS, *(_interval(figures.get(column)) for column in self.columns)])
        return rows

    def remarks(self) -> list[str]:
        """What a reader must know, in sentences."""
        found = [f"Published figures: {SOURCE}. {self.note}" if self.published else f"{self.note} ({SOURCE})"]
        if self.ours:
            found.append(_NOUNS if "Accuracy" in self.columns else _PROTOCOL)
            found.append("In brackets: 95 % interval by resampling the pictures or, of videos, the persons.")
        if self.unfinished:
            found.append(f"Not run yet: {', '.join(self.unfinished)}.")
        return found


def _columns(study: Study) -> tuple[list[str], list[str]]:
    """The columns of an ablation, and those that summarise a row."""
    if study.source.dataset == NOUN_DATASET:
        return ["Accuracy"], ["Accuracy"]
    emotion, au = ([f"{task} {name}" for name in FIGURES] for task in ("Emotion", "AU"))
    return [*emotion, *units("FABA"), *au], [emotion[2], au[2]]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}" if value != int(value) else f"{value:.1f}"


def _interval(figure: Figure | None) -> str:
    return "" if figure is None else f"{figure.value:.1f} [{figure.low:.1f}, {figure.high:.1f}]"


def markdown(report: Report) -> str:
    """The table as Markdown."""
    head = ["method", "source", *report.columns]
    lines = [f"# {report.title}", "", _line(head), _line(["---", "---", *("---:" for _ in report.columns)])]
    lines += [_line(row) for row in report.cells()]
    return "\n".join([*lines, "", *report.remarks(), ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def csv_text(report: Report) -> str:
    """The table as CSV; each column is followed by the two ends of its interval, which published rows lack."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    heads = [head for column in report.columns for head in (column, f"{column} low", f"{column} high")]
    writer.writerow(["method", "source", *heads])
    for row in report.published:
        cells = [cell for value in row.values for cell in ("" if value is None else value, "", "")]
        writer.writerow([row.method, row.reference, *cells])
    for name, figures in report.ours:
        found = [figures.get(column) for column in report.columns]
        cells = [cell for f in found for cell in ((f.value, f.low, f.high) if f else ("", "", ""))]
        writer.writerow([name, OURS, *(f"{cell:.4f}" if isinstance(cell, float) else cell for cell in cells)])
    return text.getvalue()


def html_page(report: Report) -> bytes:
    """The table as a page of its own, with plots."""
    plots = (_picture(report, columns) for columns in (report.main, report.columns) if columns)
    remarks = "".join(f"<p>{escape(remark)}</p>" for remark in report.remarks())
    head = ["method", "source", *report.columns]
    return page(f"EmoLA, {report.title}", [table("Figures", head, report.cells()), remarks, *dict.fromkeys(plots)])


def _picture(report: Report, columns: Sequence[str]) -> str:
    """Each row's figures in some columns, ours with their intervals."""
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        raise DependencyError("matplotlib", "train", "draw the plots of a table") from None
    places = [list(report.columns).index(column) for column in columns]
    names = [row.method for row in report.published] + [f"{name} ({OURS})" for name, _ in report.ours]
    canvas = Canvas(figsize=(max(6.0, 1.1 * len(columns) + 4), 1.2 + 0.28 * len(names)), layout="constrained")
    axes = canvas.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axis, column, place in zip(axes, columns, places, strict=True):
        for height, row in enumerate(report.published):
            axis.plot(row.values[place], height, "o", color="#41608f", markersize=4)
        for height, (_, figures) in enumerate(report.ours, len(report.published)):
            if found := figures.get(column):
                ends = [[found.value - found.low], [found.high - found.value]]
                axis.errorbar(found.value, height, xerr=ends, fmt="o", color="#b00020", markersize=4, capsize=2)
        axis.set_title(column, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(names)), names, fontsize=7)
    axes[0].invert_yaxis()
    content = io.BytesIO()
    canvas.savefig(content, format="png", dpi=110)
    source = base64.b64encode(content.getvalue()).decode()
    return f'<p><img alt="{escape(", ".join(columns))}" src="data:image/png;base64,{source}"></p>'


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write the three files and return their paths."""
    stem = f"table-{report.name}"
    contents = {"md": markdown(report).encode(), "csv": csv_text(report).encode(), "html": html_page(report)}
    for kind, content in contents.items():
        write_file(folder / f"{stem}.{kind}", content)
    return [folder / f"{stem}.{kind}" for kind in contents]

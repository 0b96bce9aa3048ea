"""The Parquet file of a job: one row per picture, one per analysed frame of a video, and one per failed input.

input             number of the input, from 0, in the order of the sources
source            its path or URL
sha256            digest of its content in hexadecimal digits; null if it could not be read
status            "ok", "no_face", "truncated" or "failed", as in `sdk.results.Analysis`
error             why it failed; null otherwise
width, height     of the picture or frame in pixels
frame, time_s     for video only
faces             list of faces, each with the other columns of `sdk.tables`
warnings          list of sentences
analysis          the complete analysis as JSON; null if the input failed

The metadata of the file hold the settings of the job. pyarrow reads and writes the file.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sdk.errors import DependencyError, OutputError
from sdk.files import replacing
from sdk.jobs.store import Result, Store, check_settings
from sdk.printable import one_line
from sdk.records import AnalysisRecord
from sdk.tables import COLUMNS, COUNTS, TEXTS, rows
from sdk.untrusted_json import parse_json

_SETTINGS = b"emola.batch"
_ROWS = 1000  # of a row group
_FACE = tuple(name for name in COLUMNS if name not in ("source", "frame", "time_s"))


def load_pyarrow() -> Any:
    """Import pyarrow.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise DependencyError("pyarrow", "batch", "write Parquet files") from None
    return pyarrow


def write_table(out: Path, store: Store, sources: Sequence[str], settings: Mapping[str, Any]) -> int:
    """Write all results of a job; return the number of rows.

    Args:
        out: path of the file, which is replaced.
        sources: path or URL of each input.
        settings: of the job.
    """
    arrow = load_pyarrow()
    schema, count, found = _schema(arrow, settings), 0, store.results()
    with replacing(out) as place, arrow.parquet.ParquetWriter(place, schema, compression="zstd") as writer:
        while group := [_row(result, sources[result.number]) for result in islice(found, _ROWS)]:
            writer.write_table(arrow.Table.from_pylist(group, schema))
            count += len(group)
    return count


def keep_earlier_results(out: Path, store: Store, settings: Mapping[str, Any]) -> None:
    """Put the results of an existing file into the store, except those of inputs that failed.

    Raises:
        OutputError: the file was not written by this function's counterpart, or with other settings.
    """
    if not out.is_file():
        return
    arrow = load_pyarrow()
    try:
        with arrow.parquet.ParquetFile(out) as file:
            metadata = file.schema_arrow.metadata or {}
            if _SETTINGS not in metadata:
                raise OutputError(f"{out} was not written by emola batch; choose another --out, or remove it")
            check_settings(out, parse_json(metadata[_SETTINGS]), settings)
            _keep(file, store)
    except (arrow.ArrowException, ValueError) as error:
        raise OutputError(
            f"{out} cannot be read ({one_line(error)[:300]}); choose another --out, or remove it"
        ) from None
    except (KeyError, TypeError) as error:
        raise OutputError(f"{out} lacks columns of emola batch ({error}); choose another --out, or remove it") from None


def _keep(file: Any, store: Store) -> None:
    complete: set[bytes] = set()
    failed: set[bytes] = set()
    number, part = None, 0
    for batch in file.iter_batches(_ROWS, columns=["input", "sha256", "error", "analysis"]):
        for row in batch.to_pylist():
            if row["sha256"] is None:
                continue
            digest = bytes.fromhex(row["sha256"])
            number, part = row["input"], part + 1 if row["input"] == number else 0
            (failed if row["error"] else complete).add(digest)
            if row["analysis"] is not None:
                AnalysisRecord.model_validate_json(row["analysis"])
                store.keep(digest, part, row["analysis"])
    for digest in complete - failed:
        store.complete(digest)


def _schema(arrow: Any, settings: Mapping[str, Any]) -> Any:
    text, whole, real = arrow.string(), arrow.int64(), arrow.float64()
    face = arrow.struct(
        [(name, text if name in TEXTS else whole if name in COUNTS else real) for name in _FACE],
    )
    columns = {"input": whole, "source": text, "sha256": text, "status": text, "error": text}
    columns |= {"width": whole, "height": whole, "frame": whole, "time_s": real}
    columns |= {"faces": arrow.list_(face), "warnings": arrow.list_(text), "analysis": text}
    return arrow.schema(list(columns.items()), {_SETTINGS: json.dumps(settings).encode()})


def _row(result: Result, source: str) -> dict[str, Any]:
    name = source.encode(errors="backslashreplace").decode()  # file names may hold what UTF-8 does not have
    digest = result.sha256.hex() if result.sha256 else None
    row = {"input": result.number, "source": name, "sha256": digest, "status": "failed", "error": result.error}
    if result.analysis is None:
        return {**row, "faces": [], "warnings": []}
    # the content may have had another name when it was analysed
    analysis = AnalysisRecord.model_validate_json(result.analysis).model_copy(update={"source": name})
    frame = analysis.frame
    return {
        **row,
        "status": analysis.status,
        "width": analysis.image_size[0],
        "height": analysis.image_size[1],
        "frame": frame.index if frame else None,
        "time_s": frame.time_s if frame else None,
        "faces": [{key: face[key] for key in _FACE} for face in rows(analysis)],
        "warnings": list(analysis.warnings),
        "analysis": analysis.to_json(),
    }

"""The same targets under atheris (libFuzzer): inputs that reach new code are kept and changed further.

Atheris has wheels for Linux and Python 3.11 or later: `pip install atheris`. A finding is written down and the run goes
on; the death of the process ends it, and libFuzzer keeps the input in the folder.
"""

import os
import tempfile
import time
import traceback
from pathlib import Path

from worker import MAX_SECONDS, Findings, Target

from sdk.files import append_journal

_SEEDS = 300  # inputs of the random engine that the corpus begins with


def run_guided(target: Target, folder: Path, executions: int) -> int:
    """Fuzz one target; ends the process."""
    import atheris

    corpus = folder / "corpus" / target.name
    if not corpus.exists():
        corpus.mkdir(parents=True)
        for index in range(_SEEDS):
            (corpus / str(index)).write_bytes(target.case(index))
    scratch = tempfile.mkdtemp(prefix="guided-")
    call, findings = target.open(Path(scratch)), Findings(folder)
    counts = {"target": target.name, "executions": 0, "escapes": 0, "slow": 0}
    journal = folder / "guided.jsonl"

    def one(data: bytes) -> None:
        begin = time.perf_counter()
        try:
            call(data)
        except target.errors:
            pass
        except Exception as error:
            counts["escapes"] += 1
            findings.add_input(target, f"guided-{counts['escapes']}", data, "escape", _text(error))
        counts["executions"] += 1
        if time.perf_counter() - begin > MAX_SECONDS:
            counts["slow"] += 1
            findings.add_input(target, f"guided-slow-{counts['slow']}", data, "slow", "")
        if counts["executions"] == executions:
            append_journal(journal, counts)
            print(counts, flush=True)
            os._exit(1 if counts["escapes"] + counts["slow"] else 0)

    options = ["-max_len=65536", "-timeout=60", "-rss_limit_mb=2500", f"-artifact_prefix={folder}/", str(corpus)]
    atheris.Setup(["fuzz", *options], one)
    atheris.Fuzz()
    return 0


def _text(error: Exception) -> str:
    return "".join(traceback.format_exception(error, chain=False))

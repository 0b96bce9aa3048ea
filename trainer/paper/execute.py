"""Run the jobs of a table one after another; what is done is not done again."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sdk.errors import TrainingError
from sdk.files import append_journal, read_journal
from sdk.locks import writing_into
from trainer.paper.experiments import Job

JOURNAL = "jobs.jsonl"


def waiting(jobs: Iterable[Job], runs: Path) -> list[Job]:
    """The jobs that are not done, each once, in order."""
    done = {tuple(row["words"]) for row in read_journal(runs / JOURNAL, words=list)}
    return [job for job in dict.fromkeys(jobs) if job.words not in done or not job.makes.exists()]


def execute(
    jobs: Iterable[Job], runs: Path, start: Callable[[Sequence[str]], int], report: Callable[[str], None]
) -> None:
    """Run what is waiting; each command resumes its own unfinished work.

    Args:
        runs: folder of the outputs, with the journal of the jobs.
        start: runs `emola` with the words of a job and returns its exit code.
        report: told one line per job.

    Raises:
        TrainingError: a job failed; the results of those before it are kept.
    """
    with writing_into(runs):
        todo = waiting(jobs, runs)
        for number, job in enumerate(todo, 1):
            report(f"{number} of {len(todo)}: {shown(job)}")
            if code := start(job.words):
                raise TrainingError(
                    f"`{shown(job)}` ended with exit code {code}, see its message above; start `emola paper` again to "
                    "go on from there"
                )
            append_journal(runs / JOURNAL, {"words": job.words})


def shown(job: Job) -> str:
    """A job as a command line for a shell."""
    return shlex.join(("emola", *job.words))


def command_runner(launcher: Sequence[str]) -> Callable[[Sequence[str]], int]:
    """A function that runs `emola` in processes of its own, whose memory ends with them; their output goes to stderr.

    Args:
        launcher: starts training and evaluation in several processes, for example "torchrun --nproc-per-node 4"; empty:
            one process.
    """

    def start(words: Sequence[str]) -> int:
        parallel = launcher if words[0] in ("train", "evaluate") else ()
        command = [*(parallel or (sys.executable,)), "-m", "sdk", *words]
        return subprocess.run(command, stdout=sys.__stderr__).returncode

    return start

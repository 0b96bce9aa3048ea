"""What a job asks about each input, and the worker that answers: one in this process, or one in each Ray actor."""

import platform
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from sdk.analyzer import Analyzer
from sdk.bundles.files import file_sha256
from sdk.errors import BundleError, ImageError, VideoError
from sdk.examine import Faces, RequestedTask
from sdk.jobs.inputs import is_video, local_file, read_pictures
from sdk.results import Analysis

TASK_INPUTS = 64  # inputs that a worker takes at a time
# Options that leave the results as they are
_MACHINE = ("bundle", "device", "offline", "memory_limit", "threads", "max_pixels")


@dataclass(frozen=True)
class Job:
    """What is asked about every input.

    Attributes:
        model: keyword arguments of Analyzer.
        tasks, faces, max_new_tokens, batch_size: as in `Analyzer.analyze_batch`.
        sample_fps: frames to analyse per second of video; None takes every frame.
        digest: of the bundle, which may change between two openings if it has a name of the hub; None takes any.
    """

    model: Mapping[str, Any]
    tasks: tuple[RequestedTask, ...]
    faces: Faces = "detect"
    max_new_tokens: int | None = None
    batch_size: int = 8
    sample_fps: float | None = None
    digest: str | None = None

    def settings(self) -> dict[str, Any]:
        """What decides the results."""
        model = {name: value for name, value in self.model.items() if name not in _MACHINE}
        asked = {"tasks": list(self.tasks), "faces": self.faces, "max_new_tokens": self.max_new_tokens}
        return {"bundle": self.digest, **model, **asked, "sample_fps": self.sample_fps}


class Record(NamedTuple):
    """What a worker found out about an input, or about one frame of it.

    Attributes:
        number: of the input, from 0.
        sha256: digest of its content; None if it could not be read.
        part: 0 for a picture; 0, 1, 2... for the analysed frames of a video.
        analysis: as JSON; None if this record has none: the input failed, its content is known, or its frames have
            come already.
        error: why the input failed, in one sentence.
        last: nothing more comes for this input.
    """

    number: int
    sha256: bytes | None = None
    part: int = 0
    analysis: str | None = None
    error: str | None = None
    last: bool = True


class Worker:
    """Reads inputs and analyses them with an Analyzer of its own.

    Args:
        job: what to ask.
        known: digests of contents whose results exist; these are read, but not analysed.

    Raises:
        BundleError: the bundle here is not that of the job.
    """

    def __init__(self, job: Job, known: Iterable[bytes]) -> None:
        self._job, self._known = job, set(known)
        self._analyzer = Analyzer(**job.model)
        if (found := self._analyzer.manifest.digest) != (job.digest or found):
            raise BundleError(
                f"expected the bundle {job.digest:.12}, found {found:.12} on {platform.node()}: put the same bundle on "
                "every machine, or name a revision of the hub (owner/name@revision), and start again"
            )

    def records(self, inputs: Sequence[tuple[int, str]]) -> Iterator[Record]:
        """Analyse inputs, each a number and a path or URL; every input ends with one record that is its last."""
        yield from self._pictures([each for each in inputs if not is_video(each[1])])
        for number, source in inputs:
            if is_video(source):
                yield from self._video(number, source)

    def _pictures(self, inputs: Sequence[tuple[int, str]]) -> Iterator[Record]:
        settled: deque[Record] = deque()  # without an analysis
        asked: deque[tuple[int, str, bytes]] = deque()

        def contents() -> Iterator[bytes]:
            for (number, source), content in zip(inputs, read_pictures([source for _, source in inputs]), strict=True):
                if isinstance(content, ImageError):
                    settled.append(_failed(number, None, content))
                elif (digest := sha256(content).digest()) in self._known:
                    settled.append(Record(number, digest))
                else:
                    asked.append((number, source, digest))
                    yield content

        analyses = self._analyzer.iterate_batch(
            contents(),
            tasks=self._job.tasks,
            faces=self._job.faces,
            max_new_tokens=self._job.max_new_tokens,
            batch_size=self._job.batch_size,
            keep_going=True,
        )
        for analysis in analyses:
            while settled:
                yield settled.popleft()
            yield self._picture(*asked.popleft(), analysis)
        yield from settled

    def _picture(self, number: int, source: str, digest: bytes, analysis: Analysis) -> Record:
        if analysis.status == "failed":
            return _failed(number, digest, analysis.warnings[0].replace("the bytes", source, 1))
        self._known.add(digest)
        return Record(number, digest, analysis=analysis.to_json())

    def _video(self, number: int, source: str) -> Iterator[Record]:
        digest = None
        try:
            with local_file(source) as path:
                digest = bytes.fromhex(file_sha256(path))
                if digest not in self._known:
                    yield from self._frames(number, digest, path)
                    self._known.add(digest)
        except (ImageError, VideoError, OSError) as error:
            yield _failed(number, digest, str(error).replace(str(path), source) if digest else error)
        else:
            yield Record(number, digest)

    def _frames(self, number: int, digest: bytes, path: Path) -> Iterator[Record]:
        analyses = self._analyzer.analyze_video(
            path, tasks=self._job.tasks, max_new_tokens=self._job.max_new_tokens, sample_fps=self._job.sample_fps
        )
        for part, analysis in enumerate(analyses):
            yield Record(number, digest, part, analysis.to_json(), last=False)


def analyze_here(job: Job, sources: Sequence[str], known: Iterable[bytes]) -> Iterator[Record]:
    """Analyse inputs in this process, in their order."""
    worker = Worker(job, known)
    for first in range(0, len(sources), TASK_INPUTS):
        yield from worker.records(list(enumerate(sources[first : first + TASK_INPUTS], first)))


def _failed(number: int, digest: bytes | None, error: "Exception | str") -> Record:
    # names of files may hold what UTF-8 does not have
    return Record(number, digest, error=str(error).encode(errors="backslashreplace").decode())

"""Restartable stages: each writes under a temporary name, `stage.json` last, and is skipped while its key matches."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sdk.errors import ExportError
from sdk.replacement import disk_is_full
from sdk.untrusted_json import read_json_object
from trainer.model.memory import release_memory

RECORD = "stage.json"


class Stages:
    """A chain of stages in one work folder; the key of a stage contains the key of the one before it.

    Args:
        work: folder that keeps the finished stages of a run that was stopped.
        report: called with one line when a stage starts or is skipped.
    """

    def __init__(self, work: Path, report: Callable[[str], None]) -> None:
        self.work, self.report = work, report
        self._key = ""

    def run(
        self,
        name: str,
        inputs: Mapping[str, Any],
        action: Callable[[Path], Mapping[str, Any]],
        *,
        resumable: bool = False,
    ) -> Path:
        """Run a stage, or use the result of an earlier run.

        Args:
            name: of the stage and its folder.
            inputs: everything that decides its result, as JSON; if it changes, the stage runs again.
            action: fills the folder that it is given and returns figures to record.
            resumable: the action continues with what a run with the same inputs left in the folder.

        Returns:
            The finished folder.

        Raises:
            ExportError: the disk is full; what the stage wrote is removed, unless a later run can continue with it.
        """
        self._extend_key(name, inputs)
        folder = self.work / name
        if self._is_done(folder):
            self.report(f"{name}: done before, skipped")
            return folder
        self.report(f"{name} ...")
        partial = self.work / (f"{name}.{self._key[:16]}.partial" if resumable else f"{name}.partial")
        for leftover in (folder, *self.work.glob(f"{name}*.partial")):
            if not (resumable and leftover == partial):
                shutil.rmtree(leftover, ignore_errors=True)
        try:
            partial.mkdir(parents=True, exist_ok=resumable)
            release_memory()  # of the stages before
            figures = action(partial)
            record = {"key": self._key, "inputs": inputs, "figures": figures}
            (partial / RECORD).write_text(json.dumps(record, indent=1))
        except Exception as error:
            if not disk_is_full(error, self.work):
                raise
            if not resumable:
                shutil.rmtree(partial, ignore_errors=True)
            raise ExportError(
                f"stage {name}: the disk of {self.work.resolve()} is full; make room and start the same export again, "
                "finished stages are kept"
            ) from error
        partial.rename(folder)
        return folder

    def finished(self, inputs: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
        """The stages that `run` would skip.

        Args:
            inputs: of all stages by name, in order.
        """
        other, found = Stages(self.work, self.report), set()
        for name, content in inputs.items():
            other._extend_key(name, content)
            if other._is_done(self.work / name):
                found.add(name)
        return frozenset(found)

    def _extend_key(self, name: str, inputs: Mapping[str, Any]) -> None:
        content = json.dumps([self._key, name, inputs], sort_keys=True)
        self._key = hashlib.sha256(content.encode()).hexdigest()

    def _is_done(self, folder: Path) -> bool:
        try:
            return bool(read_json_object(folder / RECORD, ExportError).get("key") == self._key)
        except ExportError:
            return False

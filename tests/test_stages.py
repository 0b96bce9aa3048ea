"""A stage runs once, again when its inputs change, and never counts when it did not finish."""

import pytest

from export.stages import Stages


def chain(work, log, first=1, fail=False):
    stages = Stages(work, log.append)

    def write(folder):
        (folder / "result.txt").write_text(str(first))
        if fail:
            raise KeyboardInterrupt
        return {"figure": first}

    stages.run("one", {"value": first}, write)
    return stages.run("two", {}, write)


def test_finished_stages_are_skipped(tmp_path):
    log = []
    folder = chain(tmp_path, log)
    assert chain(tmp_path, log) == folder
    assert log == ["one ...", "two ...", "one: done before, skipped", "two: done before, skipped"]


def test_a_changed_input_runs_all_that_follows(tmp_path):
    log = []
    chain(tmp_path, log)
    folder = chain(tmp_path, log, first=2)
    assert log[2:] == ["one ...", "two ..."]
    assert (folder / "result.txt").read_text() == "2"


def test_an_interrupted_stage_runs_again(tmp_path):
    log = []
    with pytest.raises(KeyboardInterrupt):
        chain(tmp_path, log, fail=True)
    assert not (tmp_path / "one").exists()
    chain(tmp_path, log)
    assert log == ["one ...", "one ...", "two ..."]

"""A disk that fills up in the middle of an export: one clear line, nothing half written, and the same bundle later."""

import errno
import os
import subprocess

import numpy as np
import pytest
from conftest import GOLDEN
from safetensors import SafetensorError

from export.build import export_bundle
from export.options import ExportOptions
from export.quantise.calibrate import CalibrationSet
from export.quantise.gptq import GptqOptions
from export.stages import Stages
from sdk.bundles.manifest import check_hashes
from sdk.errors import ExportError

STAGES = ("merge", "calibrate", "gptq", "reference", "graphs", "answers", "seal")


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A small file system of its own."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system can be mounted by the superuser only")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def options(out) -> ExportOptions:
    adapter, base, clip = (str(GOLDEN / name) for name in ("llava-lora-emola-trained", "llava-base", "clip"))
    train = CalibrationSet(GOLDEN / "data/FABAInstruct/train/train_anno.json", 12)
    return ExportOptions(adapter, base, out, clip, quantize="gptq", calibration=train, gptq=GptqOptions(4, 32))


def test_the_disk_fills_up_in_each_stage(disk, tmp_path):
    """Real writers on a real full disk, stage after stage; each later run continues, the last gives the same bundle."""
    out, filler = disk / "bundle", disk / "filler"

    def fill(line: str) -> None:
        if line == f"{stage} ...":
            usage = os.statvfs(disk)
            filler.write_bytes(bytes(usage.f_bavail * usage.f_frsize))

    for stage in STAGES:
        with pytest.raises(ExportError, match=f"stage {stage}: the disk of {disk}/bundle.work is full; make room"):
            export_bundle(options(out), fill)
        filler.unlink()
        left = {path.name.split(".")[0] for path in (disk / "bundle.work").iterdir()}
        finished = set(STAGES[: STAGES.index(stage)])
        assert left - {"gptq"} == finished - {"gptq"}, "what was half written stayed"
        assert not out.exists()
    manifest = export_bundle(options(out))
    check_hashes(out, manifest)
    assert manifest.digest == export_bundle(options(tmp_path / "bundle")).digest


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_every_library_reports_a_full_disk_in_its_own_way(tmp_path, error):
    def write(folder):
        np.save(folder / "half.npy", np.zeros(9))
        raise error

    with pytest.raises(ExportError, match=r"stage one: the disk of .* is full"):
        Stages(tmp_path / "work", lambda line: None).run("one", {}, write)
    assert list((tmp_path / "work").iterdir()) == []


def test_numpy_gives_no_reason(tmp_path, monkeypatch):
    """ "1024 requested and 0 written": then the space that is left tells."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 512})())

    def write(folder):
        raise OSError("1024 requested and 0 written")

    with pytest.raises(ExportError, match="is full"):
        Stages(tmp_path / "work", lambda line: None).run("one", {}, write)


def test_other_errors_stay_what_they_are(tmp_path):
    def write(folder):
        raise OSError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        Stages(tmp_path / "work", lambda line: None).run("one", {}, write)

"""`emola doctor` says what works here, from the installed packages, a real import, a real face and a real hub."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from conftest import GOLDEN
from hub_server import HubServer
from packaging.requirements import Requirement

import sdk.doctor.machine
import sdk.doctor.packages
import sdk.extras
from sdk.cli import main
from sdk.doctor.findings import install_missing
from sdk.doctor.machine import check_bundle, check_devices, check_hub
from sdk.doctor.packages import PURPOSES, check_extra, check_packages

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "sdk/assets/pictures/astronaut.jpg"
CPU_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cpu"


@pytest.fixture
def needing(monkeypatch):
    """Give the extra `cpu` other packages."""

    def need(*lines):
        monkeypatch.setattr(sdk.doctor.packages, "requirements", lambda: {"cpu": tuple(map(Requirement, lines))})

    return need


def test_the_whole_report(capsys):
    """The embedded bundle reads the packaged photograph; every part is one of a JSON list."""
    code = main(["doctor", "--offline", "--json"])
    found = {each["part"]: each for each in json.loads(capsys.readouterr().out)}
    assert {"python", "emola-edge", "packages", "cpu", "faces", "processor", "memory", "hub", "bundle"} <= set(found)
    assert found["bundle"]["verdict"] == "works", found["bundle"]
    assert re.fullmatch(r"emola-nano on \S+ \(OpenVINO .+\): 1 face read in [\d.]+ s", found["bundle"]["found"])
    assert code == (1 if any(each["verdict"] == "broken" for each in found.values()) else 0)


def test_every_extra_of_setup_has_a_purpose_or_is_for_developers():
    extras = set(re.findall(r'^    "([\w-]+)": ', (ROOT / "setup.py").read_text(), re.MULTILINE))
    developers = {"test", "test-batch", "oracles", "triton", "peers", "peers-gptq", "browser", "docs", "release", "dev"}
    assert extras - developers == set(PURPOSES)


def test_missing_and_old_packages_are_named_with_the_command(needing):
    needing("no-such-package>=1", "numpy")
    found = check_extra("cpu")
    assert (found.verdict, found.remedy) == ("absent", "pip install 'emola-edge[cpu]'")
    assert found.found == "no-such-package is missing: needed to run bundles on the CPU"
    needing("numpy>=999")
    found = check_extra("cpu")
    assert (found.verdict, found.remedy) == ("broken", "pip install 'emola-edge[cpu]' --upgrade")
    assert re.fullmatch(r"numpy is [\d.]+, expected >=999", found.found)


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch brings CUDA by default on Linux only")
def test_pytorch_is_installed_without_cuda_where_no_gpu_is(needing, monkeypatch, tmp_path):
    """The packages that are missing, on a machine without and with NVIDIA's driver."""
    needing("torch", "no-such-package>=1")
    assert check_extra("cpu").remedy == "pip install 'emola-edge[cpu]'", "torch is here"
    monkeypatch.setenv("PATH", str(tmp_path))
    without = install_missing("train", ["torch", "peft"])
    assert without.split(" && ") == [CPU_TORCH, "pip install 'emola-edge[train]'"]
    assert CPU_TORCH in (ROOT / "README.md").read_text(encoding="utf-8")
    assert install_missing("train", ["peft"]) == "pip install 'emola-edge[train]'"
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\n")
    driver.chmod(0o755)
    assert install_missing("train", ["torch", "peft"]) == "pip install 'emola-edge[train]'"


def test_a_package_that_cannot_be_imported_is_broken(needing, monkeypatch):
    """One raises, one ends Python, as a wheel for newer processors does."""
    needing("numpy")
    for module, reason in (("no_such_module", "No module named"), ("crashing_module", "Python ended with")):
        monkeypatch.setattr(sdk.doctor.packages, "module_of", lambda _, name=module: name)
        if module == "crashing_module":
            monkeypatch.setattr(sdk.doctor.packages, "_IMPORT", "import os; os.abort()")
        found = check_extra("cpu")
        assert (found.verdict, reason in found.found) == ("broken", True), found
        assert "installed, but cannot be imported" in found.found


def test_an_extra_without_packages_for_this_system_is_absent(needing):
    """As openvino on ARM."""
    needing()
    assert check_extra("cpu").verdict == "absent"


def test_openvino_is_imported_without_its_telemetry(monkeypatch, tmp_path):
    """A stand-in for OpenVINO fails if the package that reports to Intel can be imported."""
    for name, code in {
        "openvino_telemetry": "",
        "openvino": "try:\n    import openvino_telemetry\nexcept ImportError:\n    pass\nelse:\n    1 / 0",
    }.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert sdk.doctor.packages._import_failure.__wrapped__("openvino") is None


def test_two_versions_of_onnxruntime_are_broken(needing, monkeypatch):
    needing("numpy")
    monkeypatch.setattr(sdk.doctor.packages, "shortfall", lambda requirement: None)
    found = check_extra("cpu")
    assert found.verdict == "broken"
    assert found.remedy.startswith("pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'emola-edge[cpu]'")


def test_another_trainer_is_found(tmp_path, monkeypatch):
    """Coqui's package has the import name `trainer`, too."""
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/__init__.py").touch()
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "from sdk.doctor.packages import check_packages\n"
        "found = [each for each in check_packages() if each.part == 'emola-edge'][0]\n"
        "print(found.verdict, found.found, found.remedy, sep='|')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    verdict, found, remedy = done.stdout.strip().split("|")
    assert (verdict, "import trainer" in found, "venv" in remedy) == ("broken", True, True)
    assert str(tmp_path / "trainer") in found


def test_a_script_with_the_name_of_the_package_is_found(tmp_path, monkeypatch):
    """`python sdk.py` imports itself: Python's message names it, the README explains that, doctor finds it."""
    script = tmp_path / "sdk.py"
    script.write_text("from sdk import Analyzer\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot import name 'Analyzer' from" in done.stderr
    assert str(script) in done.stderr.splitlines()[-1], "the last line names the file"
    assert "cannot import name 'Analyzer' from" in (ROOT / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    (found,) = (each for each in check_packages() if each.part == "this folder")
    assert (found.verdict, found.remedy) == ("broken", "give sdk.py another name")
    assert found.found.startswith(f"{script} hides the package sdk")
    script.unlink()
    (tmp_path / "export").mkdir()  # a folder of data hides nothing
    assert not [each for each in check_packages() if each.part == "this folder"]


def test_a_clone_that_is_not_installed_says_so(monkeypatch):
    def absent():
        raise PackageNotFoundError("emola-edge")

    monkeypatch.setattr(sdk.doctor.packages, "requirements", absent)
    last = list(check_packages())[-1]
    assert (last.verdict, last.remedy) == ("broken", "pip install emola-edge")


def test_the_hub(monkeypatch, tmp_path):
    """It answers, is replaced by a login page, cannot be reached, or is not asked; the folder cannot be made."""
    pytest.importorskip("httpx")
    pytest.importorskip("filelock")
    monkeypatch.setenv("EMOLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with HubServer(GOLDEN) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        assert check_hub(offline=False).found.startswith(f"{server.url} answers; downloads go to {tmp_path}")
        asked = len(server.tokens)
        assert check_hub(offline=True).found.startswith("offline; ")
        assert len(server.tokens) == asked == 1
    found = check_hub(offline=False)
    assert (found.verdict, server.url in found.found) == ("absent", True)
    assert "HTTPS_PROXY" in found.remedy
    assert not (tmp_path / "cache").exists()


def test_a_bundle_that_is_missing_or_damaged(tmp_path):
    found = check_bundle(str(tmp_path / "none"), PHOTO, device="auto", offline=True)
    assert (found.verdict, "no such folder" in found.found) == ("broken", True)
    found = check_bundle("owner/none", PHOTO, device="auto", offline=True)
    assert (found.verdict, "no earlier download" in found.found) == ("broken", True)


def test_a_bundle_that_does_not_fit_is_not_opened(monkeypatch):
    monkeypatch.setattr(sdk.doctor.machine, "available_memory", lambda: 1e6)
    found = check_bundle(None, PHOTO, device="auto", offline=True)
    assert (found.verdict, "the limit is 1.0 MB" in found.found) == ("broken", True)


def test_a_gpu_is_checked_by_each_library(monkeypatch):
    """A machine that calls itself a Jetson, without a GPU that works: each extra says why, and none raises."""
    about = {"processor": "ARM", "cores": "6", "board": "NVIDIA Jetson Orin NX"}
    monkeypatch.setattr(sdk.doctor.machine, "environment", lambda: about)
    found = {each.part: each for each in check_devices()}
    assert found["nvidia gpu"].found == "NVIDIA Jetson Orin NX"
    assert {"gpu", "gptq", "tensorrt"} <= set(found)
    assert all(each.found for each in found.values())

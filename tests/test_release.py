"""The archives of a release and the documentation site are complete and pass the checks of PyPI and of mkdocs."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from sdk import __version__

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Wheel and source archive, built from a copy: setuptools leaves its folders beside setup.py."""
    pytest.importorskip("build")
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    names = [name for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE") if (ROOT / name).exists()]
    for name in ("sdk", "trainer", "export"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in names:
        shutil.copyfile(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(path for path in folder.iterdir() if path.is_file())


def test_the_archives_hold_the_package_and_its_model(archives):
    packed, wheel = archives
    assert [path.name for path in archives] == [
        f"emola_edge-{__version__}.tar.gz",
        f"emola_edge-{__version__}-py3-none-any.whl",
    ][:: 1 if packed.suffix == ".gz" else -1]
    with zipfile.ZipFile(next(path for path in archives if path.suffix == ".whl")) as content:
        names = set(content.namelist())
    assert {"sdk/py.typed", "sdk/assets/emola-nano/manifest.json", "sdk/server/page/index.html"} <= names
    assert {"trainer/__init__.py", "export/__init__.py", "trainer/accelerate/zero3.yaml"} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    with tarfile.open(next(path for path in archives if path.suffix == ".gz")) as content:
        assert any(name.endswith("/sdk/assets/emola-nano/manifest.json") for name in content.getnames())


def test_pypi_accepts_the_metadata(archives):
    pytest.importorskip("twine")
    command = [sys.executable, "-m", "twine", "check", "--strict", *archives]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 2), done.stdout + done.stderr


def test_the_site_builds_without_a_warning(tmp_path):
    """With every page of docs/ in it, an API reference made from docstrings, and nothing loaded from elsewhere."""
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'not included in the "nav"' not in done.stderr, done.stderr
    site = tmp_path / "site"
    for page in (ROOT / "docs").rglob("*.md"):
        inner = page.relative_to(ROOT / "docs").with_suffix("")
        folder = inner.parent if inner.name == "README" else inner
        assert (site / folder / "index.html").is_file(), page
    reference = (site / "api/index.html").read_text(encoding="utf-8")
    for words in ("analyze_batch", "Analyse one picture.", "One face of a picture.", "Base of the errors"):
        assert words in reference
    assert not re.search(
        r'<(?:script|link|img)[^>]+(?:src|href)="https?://(?!127)[^"]+\.(?:js|css|woff2?|png)"', reference
    )


def test_the_workflow_publishes_without_a_password():
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    assert "id-token: write" in text
    assert "pypa/gh-action-pypi-publish" in text
    assert not re.search(r"secrets\.|password:", text)


def test_the_changes_name_this_version():
    assert re.search(rf"^## {re.escape(__version__)}$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

"""Build wheel and sdist twice and compare their bytes; list the licences of what is installed; write an SBOM.

    python benchmarks/reliability/packages.py build/packages [--sbom build/sbom.json]

The tools (build, cyclonedx-bom, pip-licenses) are installed into an environment of their own in the folder. The SBOM is
CycloneDX 1.6 in JSON and names every package in the environment of this Python.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ("build>=1.2", "cyclonedx-bom>=7", "pip-licenses>=5", "setuptools>=77", "wheel")
EPOCH = "1700000000"  # of all time stamps in the files
NOT_PERMISSIVE = ("GPL", "AGPL", "proprietary", "unknown", "NVIDIA")  # words in the names of licences


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sbom", type=Path, default=Path("build/sbom.json"))
    args = parser.parse_args()
    tools = _tools(args.folder / "tools")
    failed = reproduce(tools, args.folder)
    licences(tools)
    sbom(tools, args.sbom)
    return int(failed)


def _tools(folder: Path) -> Path:
    """The interpreter of the environment with the tools, which is made once."""
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *TOOLS], check=True)
        (folder / "complete").touch()
    return python


def reproduce(tools: Path, folder: Path) -> bool:
    """Build from two copies of the sources at different times and paths; True if a byte differs."""
    hashes: list[dict[str, str]] = []
    for name in ("one", "two/deeper"):
        source, out = folder / name / "source", folder / name / "dist"
        shutil.rmtree(folder / name, ignore_errors=True)
        _copy_sources(source)
        command = [str(tools), "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        hashes.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())})
    print("| file | SHA-256 of the first build | second build |\n|---|---|---|")
    for file, digest in hashes[0].items():
        print(f"| {file} | {digest} | {'equal' if hashes[1].get(file) == digest else 'DIFFERENT'} |")
    return hashes[0] != hashes[1]


def _copy_sources(target: Path) -> None:
    """The files that git knows; their times are those of the copy."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def licences(tools: Path) -> list[dict[str, str]]:
    """Print how many packages have which licence, and those that are not permissive."""
    command = [str(tools.with_name("pip-licenses")), "--python", sys.executable, "--format", "json", "--from", "mixed"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print("\n| licence | packages |\n|---|---:|")
    for name, count in Counter(row["License"] for row in found).most_common():
        print(f"| {name[:100]} | {count} |")
    watched = [row for row in found if any(word.lower() in row["License"].lower() for word in NOT_PERMISSIVE)]
    print(f"| to look at: {', '.join(row['Name'] for row in watched) or 'none'} | {len(watched)} |\n")
    return found


def sbom(tools: Path, path: Path) -> None:
    """Write the SBOM of the environment of this Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = ("--output-reproducible", "--output-format", "JSON", "--output-file", str(path))
    subprocess.run([str(tools.with_name("cyclonedx-py")), "environment", *options, sys.executable], check=True)
    content = json.loads(path.read_text(encoding="utf-8"))
    print(f"\n{path}: CycloneDX {content['specVersion']}, {len(content['components'])} components")


if __name__ == "__main__":
    sys.exit(main())

"""Measure how many megabytes each extra adds to the base packages in this Python, for the table of the README.

`python benchmarks/extras.py` prints the table; packages that are not installed are named.
"""

from importlib.metadata import Distribution, PackageNotFoundError, distribution, requires

from packaging.requirements import Requirement

from sdk.doctor.packages import PURPOSES
from sdk.extras import BASE, requirements


def closure(needed, found):
    """Add the distributions that requirements bring, with those that they need themselves, by name."""
    for requirement in needed:
        name = requirement.name.lower().replace("_", "-")
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            found[name] = None
            continue
        inner = [Requirement(line) for line in requires(name) or ()]
        extras = requirement.extras or {BASE}
        closure([each for each in inner if any(applies(each, extra) for extra in extras)], found)
    return found


def applies(requirement, extra):
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def megabytes(package: Distribution) -> float:
    """Size of the files of a package on the disk, without compiled Python."""
    paths = (path.locate() for path in package.files or () if path.suffix != ".pyc")
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def main() -> None:
    base = closure(requirements()[BASE], {})
    print(f"base packages: {sum(megabytes(package) for package in base.values() if package):.0f} MB\n")
    print("| extra | to | MB |\n|---|---|---|")
    for extra, purpose in PURPOSES.items():
        added = {name: p for name, p in closure(requirements().get(extra, ()), {}).items() if name not in base}
        missing = [name for name, package in added.items() if package is None]
        size = f"{sum(megabytes(package) for package in added.values() if package):.0f}"
        print(f"| `{extra}` | {purpose} | {'not here: ' + ', '.join(missing) if missing else size} |")


if __name__ == "__main__":
    main()

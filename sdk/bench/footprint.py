"""Start-up time and memory of a new process that opens one variant.

The parent records when it starts the process. The child reports the time and its resident memory at each milestone.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from sdk.bench.report import Footprint
from sdk.bundles.manifest import Manifest, Variant, read_manifest
from sdk.examine import Examiner, Faces
from sdk.faba.prompts import TASKS
from sdk.faces.images import load_image
from sdk.faces.preprocess import LANDMARK_FEATURES
from sdk.runtime.backends.select import open_backend
from sdk.runtime.clock import Clock
from sdk.runtime.memory import Memory
from sdk.runtime.pipeline import Pipeline

_STATUS = Path("/proc/self/status")


def measure_footprint(bundle: Path, manifest: Manifest, variant: Variant, picture: Path, faces: str) -> Footprint:
    """Measure one variant on the device that it was made for."""
    weights = Memory.of(manifest, variant).weights / 1e6
    command = [sys.executable, "-m", "sdk.bench.footprint", str(bundle.resolve()), variant.name, str(picture), faces]
    begin = time.time()
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        failure = (child.stderr.strip().splitlines() or ["the process ended without a message"])[-1]
        return Footprint(variant=variant.name, weights_mb=weights, failure=failure)
    found = json.loads(child.stdout)
    moments = {name: 1000 * (moment - begin) for name, moment in found["moments"].items()}
    return Footprint(variant=variant.name, weights_mb=weights, **moments, **found["memory"])


def main(bundle: str, variant: str, picture: str, faces: Faces) -> None:
    """Run the child process; print one JSON object."""
    moments = {"import_ms": time.time()}
    memory = {"imported_mb": resident()["resident"]}
    examiner = _open(Path(bundle), variant)
    moments["open_ms"] = time.time()
    opened = resident()
    memory |= {"opened_mb": opened["resident"], "mapped_mb": opened["mapped"]}
    pixels, clock = load_image(picture), Clock()
    features = None if examiner.pipeline.manifest.landmark else np.zeros(LANDMARK_FEATURES, np.float32)
    crops = examiner.find(pixels, faces, clock)
    first = examiner.request(("emotion",), False, max_new_tokens=1)
    for name, request in (("first_token_ms", first), ("done_ms", examiner.request(TASKS, False))):
        examiner.read(crops[0][0], request, clock, features)
        moments[name] = time.time()
    memory["peak_mb"] = resident()["peak"]
    sys.stdout.write(json.dumps({"moments": moments, "memory": memory}))


def _open(bundle: Path, name: str) -> Examiner:
    """Open one variant on the device that it was made for."""
    manifest = read_manifest(bundle)
    (variant,) = (variant for variant in manifest.variants if variant.name == name)
    only = manifest.model_copy(update={"variants": (variant,)})
    pipeline = Pipeline(bundle, manifest, open_backend(bundle, only, variant.device))
    return Examiner(pipeline, bundle / manifest.detector if manifest.detector else "auto")


def resident() -> dict[str, float | None]:
    """Memory of this process in MB: resident, its peak, and pages of mapped files; None where unknown.

    Linux reports all three. Elsewhere the resource module reports only the peak, on macOS in bytes.
    """
    if _STATUS.is_file():
        lines = (line.split() for line in _STATUS.read_text().splitlines())
        found = {words[0]: int(words[1]) / 1000 for words in lines if words[0] in ("VmRSS:", "VmHWM:", "RssFile:")}
        return {"resident": found["VmRSS:"], "peak": found["VmHWM:"], "mapped": found.get("RssFile:")}
    try:
        import resource
    except ImportError:
        return {"resident": None, "peak": None, "mapped": None}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return {"resident": None, "peak": peak, "mapped": None}


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]

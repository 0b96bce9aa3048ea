"""`emola batch --engine ray` on a real cluster of two machines, which are processes here: `make test-batch`."""

import os
import re
import shutil
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_jobs import QUICK, make_pictures, table

from sdk.cli import main
from sdk.commands.demo import PICTURES
from sdk.errors import UsageError
from sdk.jobs.ray_engine import Cluster, fit
from sdk.records import AnalysisRecord

ray = pytest.importorskip("ray", reason="Ray is not installed: make test-batch installs it")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

ROOT = Path(__file__).parents[1]


def node(cpus, gpus=0, alive=True):
    return {"Alive": alive, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}


@pytest.mark.parametrize(
    ("nodes", "cluster", "expected"),
    [
        ([node(8), node(8)], Cluster(), (2, 8)),
        ([node(8), node(4)], Cluster(), (3, 4)),
        ([{"Alive": True, "Resources": {}}, node(8), node(9, alive=False)], Cluster(), (1, 8)),
        ([node(8), node(8)], Cluster(cpus=3), (4, 3)),
        ([node(8), node(8)], Cluster(workers=1, cpus=3), (1, 3)),
        ([node(32), node(32, 4), node(2, 8)], Cluster(gpus=1), (6, 1)),
        ([node(32, 1)], Cluster(gpus=0.25), (4, 1)),
    ],
)
def test_workers_fill_the_cluster(nodes, cluster, expected):
    assert fit(nodes, cluster) == expected


@pytest.mark.parametrize("cluster", [Cluster(cpus=9), Cluster(gpus=1)])
def test_a_worker_that_fits_nowhere_is_an_error(cluster):
    with pytest.raises(UsageError, match=r"no worker with . CPUs and . GPUs fits into this cluster \(8 CPUs, 0 GPUs\)"):
        fit([node(8)], cluster)


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster: a head that runs no worker, and two machines with one CPU each."""
    from ray.cluster_utils import Cluster as Machines

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # Ray gives its workers what other processes leave
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(ROOT))
        machines = Machines(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(2):
            machines.add_node(num_cpus=1)
        yield machines.address
        machines.shutdown()


def workers():
    """Process ids of the actors that analyse."""
    from ray._private.state import actors

    return [
        actor["Pid"]
        for actor in actors().values()
        if actor["State"] == "ALIVE" and "MapWorker" in actor["ActorClassName"]
    ]


def kill_one_worker(log):
    """Kill a worker with SIGKILL as soon as the first results have come; return how many workers there were."""
    while not re.search(r"\| [1-9]\d*/", text := log.read_text()):
        assert "ended" not in text
        time.sleep(0.02)
    found = workers()
    os.kill(found[0], signal.SIGKILL)
    assert "ended" not in log.read_text(), "the job ended before a worker was killed"
    return len(found)


def test_a_killed_worker_loses_and_doubles_nothing(cluster, tmp_path, monkeypatch):
    """Two workers; one gets SIGKILL after the first results. Every input has one row, that of the local engine."""
    photos = make_pictures(tmp_path / "photos", 160)
    shutil.copy(PICTURES / "rendered.jpg", photos / "face.jpg")
    (photos / "broken.jpg").write_text("no picture")
    words = ["batch", str(photos), "--out", str(tmp_path / "ray.parquet"), *QUICK, "--engine", "ray"]
    monkeypatch.setattr("sdk.commands.batch._INTERVAL_S", 0)
    with (tmp_path / "log").open("w", buffering=1) as log, ThreadPoolExecutor(1) as threads:
        killing = threads.submit(kill_one_worker, tmp_path / "log")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", log)
            code = main([*words, "--address", cluster])
            log.write("ended\n")
        count = killing.result()
    assert (code, count) == (0, 2), (tmp_path / "log").read_text()
    found = table(tmp_path / "ray.parquet")
    assert Counter(row["source"] for row in found) == Counter(map(str, photos.iterdir()))
    assert [row["input"] for row in found] == list(range(162))
    assert main(["batch", str(photos), "--out", str(tmp_path / "local.parquet"), *QUICK]) == 0
    for one, other in zip(found, table(tmp_path / "local.parquet"), strict=True):
        assert (without_times(one), one["faces"]) == (without_times(other), other["faces"])


def without_times(row):
    analysis = AnalysisRecord.model_validate_json(row["analysis"]) if row["analysis"] else None
    times = {"timing_ms": {}, "tokens_per_second": None}
    return {**row, "faces": None, "analysis": analysis and analysis.model_copy(update=times)}


def test_an_error_of_a_worker_is_one_line(cluster, tmp_path, capsys):
    """A detector that no worker can open."""
    photos = make_pictures(tmp_path / "photos", 2)
    (tmp_path / "detector.onnx").write_text("no model")
    words = [
        "batch",
        str(photos),
        "--out",
        str(tmp_path / "out.parquet"),
        "--detector",
        str(tmp_path / "detector.onnx"),
    ]
    assert main([*words, "--engine", "ray", "--address", cluster]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("emola: error: a worker on Ray stopped: ")
    assert "detector.onnx" in last
    assert [path.name for path in tmp_path.glob("out*")] == []


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:99999"])
def test_no_cluster_is_one_line(tmp_path, capsys, address):
    photos = make_pictures(tmp_path / "photos", 1)
    words = ["batch", str(photos), "--out", str(tmp_path / "out.parquet"), "--engine", "ray"]
    assert main([*words, "--address", address]) == 1
    assert f"emola: error: no Ray cluster answers at {address} (" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]

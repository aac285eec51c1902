"""One contract for all engines: equal results, one failing job never ends a run, nothing is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import layerscope
from layerscope import registry
from layerscope.engines import scheduling
from layerscope.errors import UsageError
from layerscope.records.layers import Job, LayerRef
from layerscope.records.sources import SourceSpec
from layerscope.settings import Settings

ENGINES = sorted(registry.plugins("engines"))


def job(i: int, cost: float = 1.0, memory: int = 1) -> Job:
    return Job(
        SourceSpec("x", "x", True, str(i)), (LayerRef(i, f"l{i}", (1,), "", "f", "x"),), Settings(), cost, memory
    )


def square(job: Job) -> int:
    if job.refs[0].index == 3:
        raise ValueError("three")
    return job.refs[0].index ** 2


def die(job: Job) -> int:
    if job.refs[0].index == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return job.refs[0].index


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("m") / "m.npz"
    shapes = [(128, 64), (300, 300), (64, 64), (90, 60), (32, 16, 3, 3), (20, 10)]
    np.savez(path, **{f"w{i}.weight": rng.standard_normal(s).astype(np.float32) for i, s in enumerate(shapes)})
    return path


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_equals_serial_to_the_last_bit(saved: Path, engine: str) -> None:
    ours, serial = (layerscope.analyze(saved, engine=e) for e in (engine, "serial"))
    assert [row.name for row in ours.rows] == [row.name for row in serial.rows]
    for a, b in zip(ours.rows, serial.rows, strict=True):
        np.testing.assert_array_equal(a.spectrum.evals, b.spectrum.evals)  # type: ignore[union-attr]
        assert a.metrics == b.metrics
    assert ours.findings == serial.findings


@pytest.mark.parametrize("engine", ENGINES)
def test_a_failing_job_yields_its_error_and_the_others_go_on(engine: str) -> None:
    found = {
        j.refs[0].index: r
        for j, r in scheduling.engine_named(engine)(square, [job(i) for i in range(6)], workers=2, memory=9)
    }
    assert isinstance(found.pop(3), ValueError)
    assert found == {i: i * i for i in range(6) if i != 3}


@pytest.mark.parametrize("engine", ENGINES)
def test_jobs_larger_than_memory_run_alone_rather_than_never(engine: str) -> None:
    jobs = [job(i, memory=100) for i in (0, 1, 2)]
    assert len(list(scheduling.engine_named(engine)(square, jobs, workers=2, memory=10))) == 3


@pytest.mark.parametrize("engine", ENGINES)
def test_no_jobs_no_results(engine: str) -> None:
    assert list(scheduling.engine_named(engine)(square, [], workers=2, memory=10)) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_stopping_early_leaves_nothing_running(engine: str) -> None:
    running = scheduling.engine_named(engine)(square, [job(i) for i in range(50)], workers=2, memory=10)
    next(running)
    running.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        threads = [t for t in threading.enumerate() if "_work" in t.name]
        if not threads and not multiprocessing.active_children():
            return
        time.sleep(0.05)
    pytest.fail("something is still running")


@pytest.mark.parametrize("engine", ENGINES)
def test_thread_pools_are_left_as_they_were(saved: Path, engine: str) -> None:
    with threadpool_limits(2):  # whatever they were before
        before = [(p["filepath"], p["num_threads"]) for p in threadpool_info()]
        layerscope.analyze(saved, engine=engine)
        after = [(p["filepath"], p["num_threads"]) for p in threadpool_info()]
    assert 2 in {threads for _, threads in before}
    assert set(before) <= set(after)


def test_threads_start_the_biggest_job_first_and_respect_memory() -> None:
    order, at_once, most = [], 0, 0
    lock = threading.Lock()

    def work(j: Job) -> None:
        nonlocal at_once, most
        with lock:
            order.append(j.refs[0].index)
            at_once += j.memory
            most = max(most, at_once)
        time.sleep(0.02)
        with lock:
            at_once -= j.memory

    jobs = [job(i, cost=i, memory=i) for i in range(1, 9)]
    list(scheduling.engine_named("threads")(work, jobs, workers=4, memory=10))
    assert order[0] == 8
    assert most <= 10


def test_a_killed_worker_costs_only_its_own_layer() -> None:
    results = {
        j.refs[0].index: r
        for j, r in scheduling.engine_named("processes")(die, [job(i) for i in range(5)], workers=2, memory=9)
    }
    assert "died twice" in str(results.pop(2))
    assert results == {i: i for i in (0, 1, 3, 4)}


def test_live_models_stay_home() -> None:
    with pytest.raises(UsageError, match="save it to a file first"):
        layerscope.analyze({"w.weight": np.eye(60)}, engine="processes")


def test_a_layer_that_cannot_be_measured_never_ends_the_run(rng: np.random.Generator) -> None:
    good, bad = rng.standard_normal((60, 60)), rng.standard_normal((60, 60))
    bad[3, 4] = np.nan
    report = layerscope.analyze({"bad.weight": bad, "good.weight": good})
    assert report.layers["bad.weight"].failed
    assert "1 NaN" in report.layers["bad.weight"].skipped
    assert "alpha" in report.layers["good.weight"].metrics


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that takes any engine several seconds."""
    path = tmp_path_factory.mktemp("m") / "heavy.npz"
    layer = np.random.default_rng(0).standard_normal((2000, 2000)).astype(np.float16)
    np.savez(path, **{f"w{i}.weight": layer for i in range(24)})
    return path


@pytest.mark.parametrize("engine", ENGINES)
def test_ctrl_c_leaves_a_message_and_no_orphan(heavy: Path, engine: str) -> None:
    command = [sys.executable, "-m", "layerscope", "analyze", str(heavy), "--engine", engine]
    run = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, start_new_session=True)
    time.sleep(2)
    os.killpg(run.pid, signal.SIGINT)
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 130
    assert stderr.strip() == "layerscope: interrupted; all work has stopped"
    left = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    assert heavy.name not in left

"""A monitor rides along: what it sees, what it costs, what it keeps when things go wrong."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import LayerscopeWarning, OutputError, UnknownName, Unreadable, UsageError
from layerscope.persistence import run_journal
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(60, 64), nn.ReLU(), nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 3))


def loop(monitor: layerscope.Monitor, steps: int, lr: float = 0.1) -> list[layerscope.Check]:
    model = monitor.model
    torch.manual_seed(1)
    x = torch.randn(80, 60)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    optimizer = torch.optim.SGD(model.parameters(), lr)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        check = monitor.step(loss=loss.item())
        if check:
            found.append(check)
    return found


def test_checks_are_analyses_of_the_weights_at_their_steps(tmp_path: Path) -> None:
    model, path = net(), tmp_path / "run.layerscope"
    with layerscope.Monitor(model, every=4, path=path, budget=None, lenses=("spectra", "landscape")) as monitor:
        checks = loop(monitor, 9)
        now = layerscope.analyze(model)
    assert [check.step for check in checks] == [0, 4, 8]
    assert checks[-1].report.layers["0.weight"].metrics == now.layers["0.weight"].metrics
    assert checks[-1].rows[0]["alpha"] == now.layers["0.weight"].metrics["alpha"]
    assert checks[-1].metrics["layerscope/alpha/0.weight"] == now.layers["0.weight"].metrics["alpha"]
    assert checks[-1].metrics["layerscope/alpha/mean"] == now.summary["metrics"]["alpha"]["mean"]
    history = layerscope.History.load(path)
    assert history.steps == (0, 4, 8)
    assert history.of_model("loss")[1][0] > history.of_model("loss")[1][-1]
    assert history.series("alpha", "0.weight")[1][-1] == now.layers["0.weight"].metrics["alpha"]
    far = history.of_model("distance_from_start")
    assert far[0] == (4, 8)
    assert far[1][0] == pytest.approx(checks[1].scalars["distance_moved"])
    truth = np.sqrt(sum(float((p.detach() - q.detach()).square().sum()) for p, q in
                        zip(model.parameters(), net().parameters(), strict=True)))  # fmt: skip
    assert far[1][-1] == pytest.approx(truth, rel=0.2)  # from the first check, one step after the start
    assert monitor.history.steps == history.steps


def test_training_is_as_it_would_be_without() -> None:
    ends = []
    for every in (1, 1000):
        monitor = layerscope.Monitor(net(), every=every, budget=None, lenses=("spectra",))
        loop(monitor, 5)
        monitor.close()
        ends.append([p.detach().clone() for p in monitor.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_verdicts_speak_of_what_changed_since_the_first_check(tmp_path: Path) -> None:
    model, data, path = net(), (torch.randn(50, 60), torch.randint(3, (50,))), tmp_path / "run.layerscope"
    how: dict[str, Any] = {"data": data, "lenses": "conditioning", "budget": None, "path": path}

    def first(monitor: layerscope.Monitor) -> tuple[float, float]:
        """(σmax at the first check as the report knows it, σmax now)"""
        check = monitor.step()
        assert check is not None
        (row,) = (row for row in check.report.rows if row.name == "0.weight")
        facts = row.parts["weight"].facts
        return float(facts.get("first_weight_sigma_max", 0.0)), float(row.metrics["weight_sigma_max"])

    with layerscope.Monitor(model, **how) as monitor:
        none, begin = first(monitor)
        with torch.no_grad():
            model[0].weight.mul_(3)
        known, now = first(monitor)
    assert none == 0
    assert (known, now) == pytest.approx((begin, 3 * begin))
    with layerscope.Monitor(model, resume=True, **how) as monitor:
        assert first(monitor) == pytest.approx((begin, now))


def test_the_conditioning_lens_measures_beside_the_spectra() -> None:
    data = torch.randn(50, 60), torch.randint(3, (50,))
    with layerscope.Monitor(net(), every=2, data=data, lenses=("spectra", "conditioning"), budget=None) as monitor:
        checks = loop(monitor, 3)
        metrics = checks[-1].report.layers["0.weight"].metrics
        assert {"alpha", "lambda_max_x", "domination"} <= set(metrics)
        assert "layerscope/domination/0.weight" in checks[-1].metrics
    with layerscope.Monitor(net(), data=data, lenses="conditioning", budget=None) as monitor:
        assert "alpha" not in loop(monitor, 1)[0].report.layers["0.weight"].metrics


def test_a_budget_is_kept_and_says_what_it_left_out() -> None:
    class Clock:
        """A second for each training step, five for each analysis."""

        now = 0.0

        def __call__(self) -> float:
            return self.now

    clock = Clock()
    monitor = layerscope.Monitor(net(), every=1, budget=0.1, clock=clock, stop_on=["alpha > 1e9"])
    measured, seen = monitor._measure, []

    def slow(*args: Any) -> Any:
        clock.now += 5.0
        return measured(*args)

    monitor._measure = slow  # type: ignore[method-assign]

    def train() -> None:
        for step in range(201):
            clock.now += 1.0
            if monitor.step():
                seen.append(step)
        monitor.close()

    with pytest.warns(layerscope.LayerscopeWarning) as told:
        train()
    assert seen == [0, 1, 150, 200]  # the first two are always made
    first, last = (str(warning.message) for warning in told)  # one at the first that is skipped, one at the end
    assert "the check at step 2 is skipped" in first
    assert "stop_on= waits" in first
    assert "budget=None" in first
    assert "4 checks made, 197 skipped" in last
    assert monitor.share <= 0.1
    assert monitor.skipped == 201 - len(seen)
    assert monitor.history.steps == tuple(seen)


def test_the_background_checks_a_copy_and_is_told_later() -> None:
    model = net()
    before = layerscope.analyze(model).layers["0.weight"].metrics["alpha"]
    monitor = layerscope.Monitor(model, every=1000, background=True, budget=None)
    assert monitor.step() is None
    with torch.no_grad():
        model[0].weight.mul_(0.0)
    check = monitor.close()
    assert check is not None
    assert check.step == 0
    assert check.report.layers["0.weight"].metrics["alpha"] == before
    assert monitor.history.steps == (0,)
    with pytest.raises(UsageError, match="cannot be measured in the background"):
        layerscope.Monitor(model, background=True, lenses="conditioning", data=(torch.zeros(1), torch.zeros(1)))


def test_memory_stays_flat(tmp_path: Path) -> None:
    model = nn.Linear(60, 60)
    monitor = layerscope.Monitor(model, path=tmp_path / "r.layerscope", budget=None, stop_on=["alpha > 1e9"])
    for _ in range(20):
        monitor.step(loss=1.0)
    tracemalloc.start()
    for _ in range(10):
        monitor.step(loss=1.0)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(100):
        monitor.step(loss=1.0)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 100_000  # a report alone is some ten kilobytes


def test_it_stops_warns_and_restores_the_best() -> None:
    model = net()
    how: Any = {"warn_on": ["alpha in 0* > 0"], "stop_on": ["mean(stable_rank) > 0 for 3 checks"], "best": "min loss"}
    monitor = layerscope.Monitor(model, every=1, budget=None, **how)
    with pytest.warns(LayerscopeWarning, match=r"step 0: alpha > 0 in 0.weight"):
        first = monitor.step(loss=3.0)
    stopped, kept = [bool(first and first.stop)], {}
    for step, loss in enumerate([1.0, 2.0, 5.0], 1):
        with torch.no_grad():
            model[0].weight.add_(0.1)
        check = monitor.step(loss=loss)
        assert check is not None
        stopped.append(bool(check.stop))
        if step == 1:
            kept = {name: value.clone() for name, value in model.state_dict().items()}
    assert stopped == [False, False, True, True]
    assert "mean(stable_rank)" in monitor.stopped
    assert monitor.restore() is model
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    with pytest.raises(UsageError, match="best= was not set"):
        layerscope.Monitor(model).restore()


def test_weights_that_break_and_shapes_that_change_are_told_once() -> None:
    model = net()
    monitor = layerscope.Monitor(model, budget=None)
    monitor.step()
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    with pytest.warns(LayerscopeWarning, match=r"step 1: 0\.weight.*finite"):
        check = monitor.step()
    assert check is not None
    assert check.report.layers["2.weight"].metrics["alpha"] > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.step()
    model[0] = nn.Linear(60, 80)
    model[2] = nn.Linear(80, 60)
    with pytest.warns(
        LayerscopeWarning, match=r"0\.weight changed its shape from \(64, 60\) to \(80, 60\), and 2 more tensors"
    ):
        monitor.step()
    assert monitor.history.steps == (0, 1, 2, 3)


def test_a_full_disk_keeps_the_run_going_and_the_checks_waiting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monitor = layerscope.Monitor(net(), budget=None, path=tmp_path / "r.layerscope")
    monitor.step()
    real, full = os.fsync, [True]

    def fsync(handle: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.warns(
        LayerscopeWarning, match="No space left on device: training continues; unwritten checks are retried"
    ):
        monitor.step()
    monitor.step()
    assert layerscope.History.load(tmp_path / "r.layerscope").steps == (0,)
    full[0] = False
    monitor.step()
    assert layerscope.History.load(tmp_path / "r.layerscope").steps == (0, 1, 2, 3)


KILLED = """
import sys, os, signal, torch, layerscope
from layerscope.persistence import run_journal
monitor = layerscope.Monitor(torch.nn.Linear(60, 60), path=sys.argv[1], budget=None)
for step in range(3):
    monitor.step(loss=float(step))
write = monitor.journal._file.write
def half(data):
    write(data[: len(data) // 2]); monitor.journal._file.flush(); os.kill(os.getpid(), signal.SIGKILL)
class File:
    def __getattr__(self, name): return half if name == "write" else getattr(kept, name)
kept = monitor.journal._file
monitor.journal._file = File()
monitor.step(loss=3.0)
"""


def test_a_killed_process_leaves_all_whole_checks_and_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.layerscope"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    torn = path.stat().st_size
    history = layerscope.History.load(path)
    assert history.steps == (0, 1, 2)
    with pytest.raises(UsageError, match="resume=True"):
        layerscope.Monitor(net(), path=path)
    with layerscope.Monitor(nn.Linear(60, 60), path=path, resume=True, budget=None, every=2) as monitor:
        assert path.stat().st_size < torn
        assert monitor.step() is None  # step 3
        check = monitor.step(loss=9.0)
    assert check is not None
    assert check.step == 4
    assert layerscope.History.load(path).of_model("loss") == ((0, 1, 2, 4), (0.0, 1.0, 2.0, 9.0))


def test_a_history_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "run.layerscope"
    monitor = layerscope.Monitor(net(), path=path, budget=None)
    monitor.step()
    with pytest.raises(UsageError, match="another monitor"):
        layerscope.Monitor(net(), path=path, resume=True)
    monitor.close()
    layerscope.Monitor(net(), path=path, resume=True).close()


def written(path: Path, checks: int) -> tuple[bytes, list[int]]:
    """A journal of so many checks: its bytes, and where each record ends."""
    with layerscope.Monitor(nn.Linear(60, 60), path=path, budget=None) as monitor:
        for _ in range(checks):
            monitor.step()
    return path.read_bytes(), [record.end for record in run_journal.read_records(path)]


def test_damaged_journals_say_where(tmp_path: Path) -> None:
    path = tmp_path / "run.layerscope"
    whole, ends = written(path, 3)
    for at, said in ((ends[0] + 40, "damaged at byte"), (3, "no saved history|not a saved|not the history")):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with pytest.raises(Unreadable, match=said):
            layerscope.History.load(path)
    for cut in (ends[2] - 1, ends[1] + 5, ends[1] + 1):
        path.write_bytes(whole[:cut])
        assert layerscope.History.load(path).steps == (0, 1)
    path.write_bytes(whole[: ends[0] - 1])
    with pytest.raises(Unreadable, match="no complete step"):
        layerscope.History.load(path)
    path.write_bytes(whole + whole[whole.index(run_journal.RECORD_MARK) : ends[0]])
    with pytest.raises(Unreadable, match="step 0 follows step 2"):
        layerscope.History.load(path)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"every": 0}, UsageError, "1 or more"),
        ({"every": 2.5}, UsageError, "1 or more"),
        ({"budget": 0}, UsageError, "share"),
        ({"budget": 3}, UsageError, "share"),
        ({"lenses": ("spectre",)}, UnknownName, "did you mean 'spectra'"),
        ({"lenses": ()}, UnknownName, "Known: conditioning"),
        ({"lenses": "conditioning"}, UsageError, "data="),
        ({"warn_on": ["alhpa < 2"]}, UnknownName, "did you mean 'alpha'"),
        ({"stop_on": ["mean(alpha) is small"]}, UsageError, "not a criterion; examples: 'mean"),
        ({"stop_on": ["LS999"]}, UnknownName, "LS999"),
        ({"best": "loss"}, UsageError, "min loss"),
        ({"log": ["alhpa"]}, UnknownName, "did you mean 'alpha'"),
        ({"path": "/nowhere/at/all/run.layerscope"}, OutputError, "cannot write"),
    ],
)
def test_what_is_wrong_is_said_at_once(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        layerscope.Monitor(net(), **options)


def test_steps_ascend_and_scalars_are_numbers() -> None:
    monitor = layerscope.Monitor(net(), budget=None)
    with pytest.raises(UsageError, match="nothing was checked"):
        _ = monitor.history
    monitor.step(5)
    with pytest.raises(UsageError, match="step 5 after step 5"):
        monitor.step(5)
    with pytest.raises(UsageError, match="scalars"):
        monitor.step(6, loss="low")

"""What a new user of the monitor ran into: stale weights, lost checks, silent sentences, loops that ended."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import LayerscopeWarning, OutputError, Unreadable, UsageError
from layerscope.monitor.temp_balance import TempBalance
from layerscope.persistence import run_journal
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402

from tests.monitor.test_training_monitor import written  # noqa: E402


def arrays(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {f"fc{k}.weight": rng.standard_normal((60, 60)) for k in range(2)}


def waited(monitor: layerscope.Monitor) -> Any:
    for _ in range(2000):
        check = monitor.step(loss=9.0)
        if check:
            return check
        time.sleep(0.005)
    raise AssertionError("no check came back")


def test_the_best_weights_are_those_that_were_checked() -> None:
    model = nn.Linear(60, 60)
    start = model.weight.detach().clone()
    monitor = layerscope.Monitor(model, every=10_000, background=True, budget=None, best="min loss")
    monitor.step(loss=0.1)
    with torch.no_grad():
        model.weight.mul_(5)
    assert waited(monitor).step == 0
    monitor.restore()
    assert torch.equal(model.weight, start)


@pytest.mark.parametrize("kind", ["numpy", "torch", "nested"])
def test_weights_that_the_loop_changes_in_place_are_kept_as_they_were(kind: str) -> None:
    made: dict[str, Any] = {
        "numpy": {"w": np.ones((60, 60))}, "torch": {"w": torch.ones(60, 60)},
        "nested": {"a": {"kernel": np.ones((60, 60))}},
    }  # fmt: skip
    model = made[kind]
    monitor = layerscope.Monitor(model, budget=None, best="min loss")
    monitor.step(loss=0.1)
    inner = model["a"]["kernel"] if kind == "nested" else model["w"]
    inner[:] = 7.0
    monitor.step(loss=0.5)
    found = monitor.restore()
    assert float((found["a"]["kernel"] if kind == "nested" else found["w"]).max()) == 1.0


def test_donated_arrays_of_jax_are_kept() -> None:
    jax: Any = require("jax")
    model = {"kernel": jax.numpy.ones((60, 60))}
    step = jax.jit(lambda params: {"kernel": params["kernel"] * 3}, donate_argnums=0)
    monitor = layerscope.Monitor(model, budget=None, best="min loss")
    monitor.step(loss=0.1)
    monitor.step(model=step(model), loss=0.5)
    assert float(monitor.restore()["kernel"].max()) == 1.0


def test_the_budget_counts_all_that_a_check_takes() -> None:
    clock = [0.0]
    monitor = layerscope.Monitor(nn.Linear(60, 60), budget=0.1, clock=lambda: clock[0], best="min loss")
    real = monitor.journal.append

    def slow(*args: Any) -> None:
        clock[0] += 5.0
        real(*args)

    monitor.journal.append = slow  # type: ignore[method-assign]

    def train() -> None:
        for step in range(200):
            clock[0] += 1.0
            monitor.step(loss=1.0 / (step + 1))

    with pytest.warns(layerscope.LayerscopeWarning, match="is skipped"):
        train()
    assert monitor.share <= 0.1
    assert monitor.seconds == pytest.approx(5.0 * len(monitor.history.steps))


def test_a_flipped_length_is_damage_and_a_torn_end_is_not(tmp_path: Path) -> None:
    path = tmp_path / "run.layerscope"
    whole, ends = written(path, 5)
    for bit in (3, 24, 40, 55):
        raw = bytearray(whole)
        raw[ends[1] + 4 + bit // 8] ^= 1 << bit % 8
        path.write_bytes(raw)
        with pytest.raises(Unreadable, match="damaged at byte"):
            layerscope.History.load(path)
        with pytest.raises(Unreadable, match="damaged at byte"):
            layerscope.Monitor(nn.Linear(60, 60), path=path, resume=True)
        assert path.read_bytes() == bytes(raw)  # nothing is cut away
    for tail, steps in ((whole + bytes(4096), 5), (whole[: ends[3]] + bytes(ends[4] - ends[3]), 4)):
        path.write_bytes(tail)
        assert len(layerscope.History.load(path).steps) == steps
        layerscope.Monitor(nn.Linear(60, 60), path=path, resume=True).close()
        assert path.stat().st_size == ends[steps - 1]
    path.write_bytes(whole[:30])
    with layerscope.Monitor(nn.Linear(60, 60), path=path, resume=True, budget=None) as monitor:
        monitor.step()
    assert layerscope.History.load(path).steps == (0,)


def test_closing_writes_what_waited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, full = tmp_path / "r.layerscope", [False]
    monitor = layerscope.Monitor(nn.Linear(60, 60), path=path, budget=None)
    monitor.step()
    real = monitor.journal.append

    def append(*args: Any) -> None:
        if full[0]:
            raise OutputError("no room")
        real(*args)

    monitor.journal.append = append  # type: ignore[method-assign]
    full[0] = True
    with pytest.warns(LayerscopeWarning, match="unwritten checks are retried later"):
        monitor.step()
    full[0] = False
    monitor.close()
    assert layerscope.History.load(path).steps == (0, 1)
    other = layerscope.Monitor(nn.Linear(60, 60), path=path, budget=None, resume=True)
    other.journal.append = append  # type: ignore[method-assign]
    full[0] = True
    with pytest.warns(LayerscopeWarning, match="unwritten checks are retried later"):
        other.step()
    with pytest.warns(LayerscopeWarning, match="lost 1 check that could not be written"):
        other.close()


def test_after_a_resume_the_best_check_is_still_the_best(tmp_path: Path) -> None:
    path = tmp_path / "r.layerscope"
    with layerscope.Monitor(nn.Linear(60, 60), path=path, budget=None, best="min loss") as monitor:
        monitor.step(loss=0.1)
        monitor.step(loss=0.5)
    with layerscope.Monitor(nn.Linear(60, 60), path=path, budget=None, best="min loss", resume=True) as monitor:
        monitor.step(loss=0.9)
        assert monitor.best is not None
        assert (monitor.best.value, monitor.restorable) == (0.1, False)
        with pytest.raises(UsageError, match="an earlier process made the best check, step 0"):
            monitor.restore()
        monitor.step(loss=0.05)
        assert monitor.restorable


def test_errors_of_the_background_end_no_run() -> None:
    model = nn.Linear(60, 60)
    monitor = layerscope.Monitor(model, every=2, background=True, budget=None)
    monitor._measure = lambda *_: 1 / 0  # type: ignore[method-assign,assignment]
    monitor.step()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        while monitor._background.is_running:
            monitor.step()
        with pytest.raises(KeyError, match="mine"), monitor:
            monitor.step()
            raise KeyError("mine")
    assert "could not be checked: ZeroDivisionError" in str(seen[0].message)
    assert not monitor.journal.open


def test_a_closed_monitor_says_so_and_is_reopened(tmp_path: Path) -> None:
    monitor = layerscope.Monitor(nn.Linear(60, 60), path=tmp_path / "r.layerscope", budget=None)
    monitor.step()
    monitor.close()
    monitor.close()
    with pytest.raises(UsageError, match="the monitor is closed"):
        monitor.step()
    monitor.reopen().step()
    assert monitor.history.steps == (0, 1)


def test_a_forked_child_takes_neither_lock_nor_file(tmp_path: Path) -> None:
    code = """
import os, sys, torch, layerscope
monitor = layerscope.Monitor(torch.nn.Linear(60, 60), budget=None)
kept = layerscope.Monitor(torch.nn.Linear(60, 60), path=sys.argv[1], budget=None)
monitor.step(); kept.step()
reader, writer = os.pipe()
if os.fork() == 0:
    import time
    os.write(writer, b"x")  # after the hooks of the fork
    time.sleep(1.0)
    sys.exit(0)
os.read(reader, 1)
kept.close()
layerscope.Monitor(torch.nn.Linear(60, 60), path=sys.argv[1], resume=True).close()
os.wait()
monitor.step()
print(monitor.history.steps)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "r.layerscope")],
                          capture_output=True, text=True)  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "(0, 1)"), done.stderr


def test_a_warning_comes_again_when_it_holds_again_and_for_another_layer() -> None:
    model = arrays()
    monitor = layerscope.Monitor(model, budget=None, warn_on="norm > 100000")

    def told(scale: dict[str, float]) -> list[str]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            monitor.step(model={name: value * scale.get(name, 1.0) for name, value in model.items()})
        return [str(each.message) for each in seen]

    assert len(told({"fc0.weight": 9.0})) == 1
    assert told({"fc0.weight": 10.0}) == []
    assert "fc1.weight" in told({"fc0.weight": 9.0, "fc1.weight": 9.0})[0]
    assert told({}) == []
    assert len(told({"fc0.weight": 9.0})) == 1


def test_sentences_that_were_never_judged_are_told_in_the_end() -> None:
    monitor = layerscope.Monitor(arrays(), budget=None, stop_on=["alpha in conv* < 2"], best="min val_loss")
    monitor.step(loss=1.0)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        monitor.close()
    told = "; ".join(str(each.message) for each in seen)
    assert "'alpha in conv* < 2' was never evaluated" in told
    assert "no check had this value" in told


def test_a_layer_that_is_gone_and_another_model_are_told(tmp_path: Path) -> None:
    path = tmp_path / "r.layerscope"
    with layerscope.Monitor(arrays(), path=path, budget=None) as monitor:
        monitor.step()
        with pytest.warns(LayerscopeWarning, match=r"fc1\.weight is no longer in the model"):
            monitor.step(model={"fc0.weight": arrays()["fc0.weight"]})
    other = layerscope.Monitor({"fc0.weight": np.ones((70, 60))}, path=path, budget=None, resume=True)
    with pytest.warns(LayerscopeWarning, match=r"fc0\.weight changed its shape from \(60, 60\) to \(70, 60\)"):
        other.step()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: layerscope.Monitor(arrays(), nosuch=1), "nosuch"),
        (lambda: layerscope.Monitor(arrays(), layers=["zzz*"]), "match no layer"),
        (lambda: layerscope.Monitor(arrays(), budget="x"), "budget"),
        (lambda: layerscope.Monitor(arrays(), path="/tmp"), "not a file"),
        (lambda: layerscope.Monitor(arrays(), path="a\0b"), "not a file"),
        (lambda: layerscope.Monitor(arrays(), stop_on="mean(alpha) < nan"), "not a number"),
        (lambda: layerscope.Monitor(arrays(), lenses="conditioning", data=iter([])), "read only once"),
        (lambda: layerscope.Monitor(arrays()).step("x"), "whole number"),
        (lambda: layerscope.Monitor(arrays()).step(1.7), "whole number"),
    ],
)
def test_what_is_wrong_is_one_line(call: Any, said: str) -> None:
    with pytest.raises(layerscope.LayerscopeError, match=said) as told:
        call()
    assert "\n" not in str(told.value)
    assert layerscope.Monitor(arrays(), every=np.int64(5), log="alpha", warn_on="LS104").every == 5


def test_numbers_called_as_arguments_are_are_numbers() -> None:
    monitor = layerscope.Monitor(arrays(), budget=None)
    check = monitor.advance({"model": 1.0, "number": 2.0, "loss": 3.0})
    assert check is not None
    assert check.scalars == {"model": 1.0, "number": 2.0, "loss": 3.0}


def test_a_hostile_history_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.layerscope"
    with layerscope.Monitor(arrays(), path=path, budget=None) as monitor:
        monitor.step()
    raw = path.read_bytes()
    start = raw.index(run_journal.RECORD_MARK)
    _, length, _ = run_journal.RECORD_HEADER.unpack(raw[start : start + run_journal.RECORD_HEADER.size])
    body = raw[start + run_journal.RECORD_HEADER.size : start + run_journal.RECORD_HEADER.size + length]
    told = json.dumps({"step": 10**30, "scalars": {}}).encode()
    old = struct.unpack("<I", body[:4])[0]
    body = struct.pack("<I", len(told)) + told + body[4 + old :]
    path.write_bytes(
        raw[:start] + run_journal.RECORD_HEADER.pack(run_journal.RECORD_MARK, len(body), zlib.crc32(body)) + body
    )
    with pytest.raises(Unreadable, match="31 digits"):
        layerscope.History.load(path)


def test_rates_survive_a_checkpoint_and_a_forgotten_undo_is_told() -> None:
    def made() -> Any:
        torch.manual_seed(0)
        net = nn.Sequential(*(nn.Linear(60, 60) for _ in range(4)))
        optimizer = torch.optim.SGD(TempBalance.groups(net), lr=0.1)
        return net, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def epoch(balance: Any, schedule: Any, optimizer: Any) -> dict[str, float]:
        balance.undo()
        optimizer.step()
        schedule.step()
        return dict(balance.step())

    net, optimizer, schedule = made()
    balance = TempBalance(optimizer, net)
    balance.step()
    saved = optimizer.state_dict(), schedule.state_dict()
    expected = epoch(balance, schedule, optimizer)
    net, optimizer, schedule = made()
    optimizer.load_state_dict(saved[0])
    schedule.load_state_dict(saved[1])
    assert epoch(TempBalance(optimizer, net), schedule, optimizer) == pytest.approx(expected)
    optimizer.step()
    schedule.step()
    with pytest.raises(UsageError, match=r"call undo\(\) before"):
        TempBalance(optimizer, net).step()
    assert os.getpid()

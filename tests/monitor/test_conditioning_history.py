"""A monitor in a real loop: what it saw, saved, drawn and judged over the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import Unreadable, UsageError
from layerscope.records.history import History
from layerscope.views.page import writing
from layerscope.views.plots import drawing, pictures
from tests.command_line import cli
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402


def run(steps: int = 41, lr: float = 0.1, every: int = 10, **options: Any) -> History:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))
    x = torch.randn(120, 8)
    data = x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    optimizer = torch.optim.SGD(net.parameters(), lr)
    with layerscope.ConditioningMonitor(net, data, every=every, lr=lr, **options) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = functional.cross_entropy(net(data[0]), data[1])
            loss.backward()
            optimizer.step()
            monitor.step(loss=loss.item())
    return monitor.history


@pytest.fixture(scope="module")
def history() -> History:
    return run(exact=True)


def test_it_measures_every_n_steps_and_does_not_touch_the_training(history: History) -> None:
    assert history.steps == (0, 10, 20, 30, 40)
    steps, losses = history.of_model("loss")
    assert steps == history.steps
    assert losses[-1] < 0.8 * losses[0]
    assert run(every=20).of_model("loss")[1] == losses[::2]
    _, values = history.series("lambda_max_d", "0.weight")
    assert values[0] == history.reports[0].layers["0.weight"].metrics["lambda_max_d"]
    assert "alpha" not in history.last.layers["0.weight"].metrics


def test_measuring_leaves_the_run_as_it_would_be_without() -> None:
    weights = []
    for every in (1, 10_000):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 3))
        x, y = torch.randn(60, 8), torch.randint(3, (60,))
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        monitor = layerscope.ConditioningMonitor(net, (x, y), every=every, fisher="mc")
        for _ in range(5):
            optimizer.zero_grad()
            functional.cross_entropy(net(x), y).backward()
            optimizer.step()
            monitor.step()
        weights.append([tensor.clone() for tensor in net.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_the_whole_matrix_and_the_blocks_bound_each_other_at_every_step(history: History) -> None:
    for step, whole in zip(*history.of_model("lambda_max"), strict=True):
        i = history.steps.index(step)
        tops = [row.metrics["lambda_max_exact"] for row in history.reports[i].rows if not row.skipped]
        assert max(tops) <= whole * (1 + 1e-9) <= sum(tops) * (1 + 2e-9)
    agreement = history.trend_agreement()
    assert set(agreement) == {"0.weight", "3.weight", "5.weight"}
    assert all(-1 <= value <= 1 for value in agreement.values())
    own = [report.layers["3.weight"].metrics["lambda_max_exact"] for report in history.reports]
    whole = list(history.of_model("lambda_max")[1])
    ranks = [np.argsort(np.argsort(values)) for values in (own, whole)]
    assert agreement["3.weight"] == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_a_trend_needs_steps() -> None:
    assert run(steps=11, exact=True).trend_agreement() == {}
    assert set(run(steps=41).trend_agreement()) == set()  # no whole matrix without exact=True


def test_it_is_saved_and_read_again(history: History, tmp_path: Path) -> None:
    history.save(tmp_path / "run.layerscope")
    again = History.load(tmp_path / "run.layerscope")
    assert again.steps == history.steps
    assert again.scalars == history.scalars
    assert [r.to_json() for r in again.reports] == [r.to_json() for r in history.reports]
    assert isinstance(layerscope.load(tmp_path / "run.layerscope"), History)
    assert repr(again) == repr(history)
    assert len(history.frame()) == 5 * len(history.last.rows)
    with pytest.raises(UsageError, match="is a history"):
        layerscope.analyze(tmp_path / "run.layerscope")


def test_an_interrupted_loop_keeps_what_was_seen(tmp_path: Path) -> None:
    net, data = nn.Linear(4, 3), (torch.randn(20, 4), torch.randint(3, (20,)))
    with (
        pytest.raises(KeyboardInterrupt),
        layerscope.ConditioningMonitor(net, data, every=2, path=tmp_path / "r.layerscope") as monitor,
    ):
        for step in range(9):
            monitor.step()
            if step == 5:
                raise KeyboardInterrupt
    assert History.load(tmp_path / "r.layerscope").steps == (0, 2, 4)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"steps", b"cut"])
def test_a_damaged_history_is_one_error(damage: bytes, history: History, tmp_path: Path) -> None:
    path = tmp_path / "r.layerscope"
    history.save(path)
    raw = path.read_bytes()
    content = {b"steps": raw.replace(b'"steps": [0, 10', b'"steps": [9, 10'), b"cut": raw[:-4000]}.get(damage, damage)
    if damage == b"steps":
        content = raw.replace(b"[0, 10, 20, 30, 40]", b"[0, 10, 20, 40, 30]")
        assert content != raw
    path.write_bytes(content)
    with pytest.raises(Unreadable, match="history"):
        History.load(path)


def test_the_pictures_are_those_of_the_run(history: History, tmp_path: Path) -> None:
    (picture,) = pictures.make_pictures("learning_curves", [history], ["3.weight"])
    line = next(mark for mark in picture.marks if mark.panel == 1)
    assert line.y == history.series("lambda_max_x", "3.weight")[1]
    other = run(lr=0.01, every=5)
    (picture,) = pictures.make_pictures("learning_curves", [history, other], ["3.weight"])
    assert {mark.tone for mark in picture.marks} == {"series0", "series1"}
    (picture,) = pictures.make_pictures("full_and_sub", [history], ["0.weight"])
    assert picture.mark("full Fisher matrix").y == history.of_model("lambda_max")[1]
    assert "rank correlation of λmax" in picture.about
    assert pictures.make_pictures("full_and_sub", [other], ["0.weight"])[0].empty
    (picture,) = pictures.make_pictures("factors_by_depth", [history])
    assert len(picture.mark("layer inputs").y) == 3
    drawing.save_figure(history.plot("learning_curves", "0.weight"), tmp_path / "x.png")
    text = writing.render_page([history])
    assert "During training" in text
    assert "During training" in writing.render_page([history, other])
    assert "During training" not in writing.render_page(history.last)


def test_the_command_shows_runs(history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    history.save(tmp_path / "a.layerscope")
    run(lr=0.01).save(tmp_path / "b.layerscope")
    done = cli("history", "a.layerscope", "b.layerscope", "--html", "x.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert "λmax Sx" in done.stdout
    assert "During training" in (tmp_path / "x.html").read_text("utf-8")
    done = cli("plot", "learning_curves", "a.layerscope", "b.layerscope", "-l", "0.weight", "-o", "x.png")
    assert (done.returncode, done.stderr) == (0, "")
    for words, said in (
        (("history", "x.html"), "x.html is not a training history"),
        (("plot", "learning_curves", "a.layerscope", "-l", "9.weight", "-o", "x.png"), "9.weight"),
        (("analyze", "a.layerscope"), "layerscope history"),
        (("history", "a.layerscope", "--html", "a.layerscope"), "--html"),
    ):
        done = cli(*words)
        assert done.returncode in (2, 3)
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_what_is_wrong_is_said() -> None:
    net, data = nn.Linear(4, 3), (torch.randn(20, 4), torch.randint(3, (20,)))
    with pytest.raises(UsageError, match="every must be at least 1"):
        layerscope.ConditioningMonitor(net, data, every=0)
    with pytest.raises(UsageError, match="can be read only once"):
        layerscope.ConditioningMonitor(net, iter([data]))
    monitor = layerscope.ConditioningMonitor(net, data, every=1)
    with pytest.raises(UsageError, match="nothing was checked"):
        _ = monitor.history
    monitor.step(5)
    with pytest.raises(UsageError, match="step numbers must increase"):
        monitor.step(4)

"""Watching a model while it trains: a check every so many steps, within a share of the time, kept in one file."""

from __future__ import annotations

import math
import os
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from layerscope import api
from layerscope.errors import LayerscopeError, LayerscopeWarning, OutputError, UnknownName, UsageError
from layerscope.history import History
from layerscope.learning import snapshots
from layerscope.learning.criteria import Best, Criterion, metric
from layerscope.learning.monitor import finite
from layerscope.report import Report
from layerscope.selection import Selector
from layerscope.settings import Settings
from layerscope.views import frame, journal, store

LENSES = ("spectra", "conditioning", "landscape")
LOGGED = {  # metrics that trackers are given, of each lens
    "spectra": ("alpha", "stable_rank", "log_spectral_norm", "rand_distance", "rand_num_spikes"),
    "conditioning": ("lambda_max_x", "lambda_max_d", "kappa_50_x", "domination"),
    "landscape": (),
}
PREFIX = "layerscope"
KEPT = 16  # checks that wait for room on the disk


@dataclass(frozen=True)
class Check:
    """What was found at one step."""

    step: int
    report: Report
    scalars: Mapping[str, float]  # that the loop gave, and distances of the landscape lens
    metrics: Mapping[str, float]  # for trackers, under stable keys: layerscope/alpha/mean, layerscope/alpha/fc1.weight
    warnings: tuple[str, ...]
    stop: str  # why the run should stop; "" where it should not

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict for each tensor: sizes, every metric, verdicts."""
        return frame.rows(self.report)


class Monitor:
    """Rides along in a training loop, whatever the framework.

    ::

        monitor = layerscope.Monitor(model, every=100, path="run.layerscope", stop_on=["mean(alpha) < 2 for 3 checks"])
        for batch in loader:
            ...
            optimizer.step()
            check = monitor.step(loss=loss.item())
            if check and check.stop:
                break
        monitor.close()

    It measures itself: a check that would cost more than ``budget`` of the training time is put off to the next step
    that is due. The history is one file, to which each check is added; a process that is killed loses at most the check
    that was being written.
    """

    def __init__(
        self, model: Any, *, every: int = 1, lenses: Iterable[str] = ("spectra",), data: Any = None,
        loss: Any = "cross_entropy", layers: Iterable[Selector] | Selector | None = None, budget: float | None = 0.05,
        background: bool = False, path: str | Path | None = None, resume: bool = False, name: str = "run",
        warn_on: Iterable[str | Criterion] = (), stop_on: Iterable[str | Criterion] = (), best: str | None = None,
        log: Sequence[str] | None = None, settings: Settings | None = None, clock: Callable[[], float] | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        """
        :param model: a live model of any framework; where weights are values that the loop replaces (JAX), the first
            of them, and ``step(model=…)`` gives the later ones.
        :param every: steps from one check to the next; the first step is checked.
        :param lenses: "spectra" (weights alone), "conditioning" (PyTorch, with ``data`` and ``loss``), "landscape" (how
            far the weights have moved).
        :param budget: share of the training time that checks may take, 0.05; None for no limit.
        :param background: analyse a copy in a thread: ``step`` returns the check at the first step after it is done.
            Spectra and landscape only.
        :param path: of the history; a temporary file where none is given.
        :param resume: go on with a history that exists.
        :param warn_on, stop_on: sentences like "alpha in fc* < 2" (:mod:`layerscope.learning.criteria`).
        :param best: "min loss", "max accuracy", "min mean(alpha)": weights at the best check are kept for
            :meth:`restore`.
        :param log: metrics that :attr:`Check.metrics` has of each layer.
        :param options: settings by name, and with the conditioning lens what :func:`~layerscope.conditioning` takes.
        :raises UsageError: numbers out of range, unknown lenses or criteria, a path that exists.
        """
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise UsageError(f"every must be a whole number of steps, 1 or more, not {every!r}")
        if budget is not None and not 0 < budget <= 1:
            raise UsageError(f"budget is a share of the training time above 0 and up to 1, not {budget!r}")
        self.lenses = tuple(lenses) if not isinstance(lenses, str) else (lenses,)
        for lens in self.lenses or ("",):
            if lens not in LENSES:
                raise UnknownName("lens", lens, LENSES)
        if "conditioning" in self.lenses and data is None:
            raise UsageError("the conditioning lens measures on data: data=(x, y), a few hundred examples")
        if "conditioning" in self.lenses and background:
            raise UsageError("conditioning runs the model: it cannot be measured in the background")
        self.log = tuple(log) if log is not None else tuple(n for lens in self.lenses for n in LOGGED[lens])
        known = frame.metric_names()
        for each in self.log:
            if each not in known:
                raise UnknownName("metric", each, known)
        self.model, self.every, self.budget, self.background = model, every, budget, background
        self.data, self.loss, self.layers, self.settings = data, loss, layers, settings
        self.options = options
        self.warn_on, self.stop_on = ([Criterion.of(text) for text in texts] for texts in (warn_on, stop_on))
        self.best = Best.of(best) if best else None
        self.seconds = 0.0  # that checks took
        self.skipped = 0  # checks that the budget did not allow
        self.stopped = ""  # why the run should stop
        self._clock = clock or time.perf_counter
        self._begin: float | None = None
        self._last = 0.0  # seconds of the last check
        self._told: set[str] = set()  # warnings that were given
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._weights: Any = None  # of the best check
        self._start: Any = None
        self._before: Any = None
        self._waiting: list[tuple[int, Mapping[str, float], Report]] = []
        self._thread: threading.Thread | None = None
        self._ready: Check | Exception | None = None
        where = _temporary(self) if path is None else Path(path)
        self.journal = journal.Journal(where, name, resume=resume)
        last = self.journal.last
        if last is not None:  # what held before the interruption goes on to hold
            for record in journal.records(where):
                for criterion in (*self.warn_on, *self.stop_on):
                    criterion.judge(record.report)
        self._resumed = last is not None
        self._now = last.step if last is not None else -1  # the last step that was seen
        self._next = last.step + every if last is not None else 0
        self._checked = self._now

    def step(self, number: int | None = None, *, model: Any = None, **scalars: float) -> Check | None:
        """One step of the loop is done; what was found, where it was checked.

        :param number: of the step; without it steps are counted from 0.
        :param model: the weights now, where they are values.
        :param scalars: numbers that belong to the step: loss=…, accuracy=…
        :raises UsageError: a number that does not ascend, a scalar that is no number.
        """
        now = self._now + 1 if number is None else int(number)
        if now <= self._now:
            raise UsageError(f"step {now} after step {self._now}: steps ascend")
        self._now = now
        self._begin = self._clock() if self._begin is None else self._begin
        if model is not None:
            self.model = model
        ready = self._take() if self._thread is not None and not self._thread.is_alive() else None
        if now < self._next or self._thread is not None:
            return ready
        if not self._affordable():
            self.skipped += 1
            self._next = now + self.every
            return ready
        found = self.check(now, **scalars)
        return found or ready

    def check(self, step: int, **scalars: float) -> Check | None:
        """Check now, as this step, whatever the budget; None where it is done in the background."""
        if step <= self._checked:
            raise UsageError(f"step {step} after step {self._checked}: steps ascend")
        numbers = finite(scalars)
        self._now, self._checked, self._next = max(self._now, step), step, step + self.every
        clock = self._clock()
        if not self.background:
            found = self._finished(step, *self._measured(self.model, numbers), clock)
            return self._judged(*found)
        snapshot = snapshots.copied(self.model)
        self.seconds += self._clock() - clock

        def work() -> None:
            try:
                self._ready = self._finished(step, *self._measured(snapshot, numbers), self._clock())  # type: ignore[assignment]
            except Exception as error:  # of another thread: told when the loop comes by
                self._ready = error

        self._thread = threading.Thread(target=work, name="layerscope", daemon=True)
        self._thread.start()
        return None

    def _affordable(self) -> bool:
        """Would another check like the last one stay within the budget?"""
        if self.budget is None or self._last == 0.0 or self._begin is None:
            return True
        training = self._clock() - self._begin - self.seconds
        return self.seconds + self._last <= self.budget * max(training, 0.0)

    def _measured(self, model: Any, scalars: dict[str, float]) -> tuple[Report, dict[str, float]]:
        how = {"layers": self.layers, "settings": self.settings, **self.options}
        if "conditioning" in self.lenses:
            from layerscope.learning.conditioning import conditioning

            fits = {} if "spectra" in self.lenses else {"fits": ()}
            report = conditioning(model, self.data, self.loss, **{**fits, **how})
        else:
            report = api.analyze(model, **how)
        if "landscape" in self.lenses:
            scalars |= self._moved(model)
        return report, scalars

    def _moved(self, model: Any) -> dict[str, float]:
        """l2 distances of the learned weights from those of the first check and of the one before."""
        here = snapshots.learned(model)
        found = {}
        if self._start is not None and not self._resumed:  # of a run that goes on the start is not known
            found["distance_from_start"] = snapshots.distance(here, self._start)
        if self._before is not None:
            found["distance_moved"] = snapshots.distance(here, self._before)
        self._start = here if self._start is None else self._start
        self._before = here
        return found

    def _finished(
        self, step: int, report: Report, scalars: dict[str, float], clock: float
    ) -> tuple[int, Report, dict[str, float]]:
        self._last = self._clock() - clock
        self.seconds += self._last
        return step, report, scalars

    def _take(self) -> Check | None:
        """What the thread found.

        :raises Exception: what it raised.
        """
        found: Any = self._ready
        self._thread, self._ready = None, None
        if isinstance(found, Exception):
            raise found
        return self._judged(*found) if found is not None else None

    def _judged(self, step: int, report: Report, scalars: dict[str, float]) -> Check:
        told = [*self._changed(report), *(why for each in self.warn_on if (why := each.judge(report)))]
        stop = next((why for each in self.stop_on if (why := each.judge(report))), "")
        self.stopped = self.stopped or stop
        if self.best is not None and self.best.better(step, report, scalars):
            self._weights = snapshots.state(self.model)
        told += self._written(step, scalars, report)
        for why in told:
            self._warn(step, why)
        return Check(step, report, scalars, self._flat(report, scalars, told), tuple(told), stop)

    def _changed(self, report: Report) -> list[str]:
        """What no metric says: layers that are not finite, or have another shape than before."""
        shapes = {row.name: row.ref.shape for row in report.rows}
        other = [name for name, shape in shapes.items() if self._shapes.get(name, shape) != shape]
        told = [f"{name} changed its shape from {self._shapes[name]} to {shapes[name]}" for name in other[:1]]
        told = [f"{line}, {len(other) - 1} more tensors too" if len(other) > 1 else line for line in told]
        self._shapes |= shapes
        return told + [f"{row.name}: {row.skipped or 'it was not measured'}" for row in report.rows if row.failed]

    def _warn(self, step: int, why: str) -> None:
        """Each once, as long as it goes on; numbers in it do not make it another one."""
        key = "".join(c for c in why if not c.isdigit())
        if key not in self._told:
            warnings.warn(f"step {step}: {why}", LayerscopeWarning, stacklevel=4)
        self._told.add(key)

    def _written(self, step: int, scalars: Mapping[str, float], report: Report) -> list[str]:
        """Add to the history; what cannot be written waits for room, the run goes on."""
        self._waiting.append((step, scalars, report))
        try:
            while self._waiting:
                self.journal.append(*self._waiting[0])
                self._waiting.pop(0)
        except OutputError as error:
            lost = len(self._waiting) > KEPT
            self._waiting = self._waiting[-KEPT:]
            return [f"{error}: the run goes on; {'the oldest checks are lost' if lost else 'checks wait for room'}"]
        return []

    def _flat(self, report: Report, scalars: Mapping[str, float], told: Sequence[str]) -> dict[str, float]:
        found = {f"{PREFIX}/warnings": float(len(told))}
        counted = report.summary["metrics"]
        for name in self.log:
            values = metric(report, name)
            if values:
                mean = counted[name]["mean"] if name in counted else math.fsum(values.values()) / len(values)
                found[f"{PREFIX}/{name}/mean"] = float(mean)
            found |= {f"{PREFIX}/{name}/{layer}": value for layer, value in values.items()}
        return found | {f"{PREFIX}/{name}": x for name, x in scalars.items() if name.startswith("distance_")}

    @property
    def history(self) -> History:
        """All checks so far, read from the file.

        :raises UsageError: there is none.
        """
        if self.journal.last is None and self._checked < 0:
            raise UsageError("nothing was checked yet: call step() in the loop")
        return store.load_history(self.journal.path)

    @property
    def share(self) -> float:
        """Of the training time that checks took so far."""
        if self._begin is None:
            return 0.0
        training = self._clock() - self._begin - self.seconds
        return self.seconds / training if training > 0 else math.inf

    def restore(self) -> Any:
        """Put the weights of the best check back into the model; where weights are values, return them.

        :raises UsageError: ``best`` was not asked for, or no check had its number.
        """
        if self.best is None or self._weights is None:
            asked = "best= was not asked for" if self.best is None else f"no check had a number for {self.best.text!r}"
            raise UsageError(f"there are no weights to restore: {asked}")
        return snapshots.put_back(self.model, self._weights)

    def close(self) -> Check | None:
        """Wait for the check that is being made, write what waits, let others write the file."""
        found = None
        if self._thread is not None:
            self._thread.join()
            found = self._take()
        self.journal.close()
        return found

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except LayerscopeError:
            if error is None:
                raise


def _temporary(owner: Any) -> Path:
    """An empty file that goes with its owner."""
    handle, path = tempfile.mkstemp(".layerscope")
    os.close(handle)
    weakref.finalize(owner, Path(path).unlink, missing_ok=True)
    return Path(path)

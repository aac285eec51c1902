"""A training monitor: checks every so many steps, within a share of the time, in one history file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from layerscope import analysis
from layerscope.errors import LayerscopeError, UsageError
from layerscope.lenses.learning_statistics.conditioning import conditioning
from layerscope.live import snapshots
from layerscope.monitor.background_check import BackgroundCheck
from layerscope.monitor.check_schedule import CheckSchedule
from layerscope.monitor.checks import Check, WarningLog, flatten_metrics, warn_user
from layerscope.monitor.criteria import Best, Criterion
from layerscope.monitor.history_writer import HistoryWriter
from layerscope.monitor.monitor_options import (
    as_step,
    as_tuple,
    check_lenses,
    check_schedule_options,
    finite_scalars,
    logged_metrics,
)
from layerscope.persistence import report_file, run_journal
from layerscope.records.history import History
from layerscope.records.report import Report
from layerscope.settings import Settings
from layerscope.tensor_names import Selector

Measured = tuple[int, Report, dict[str, float], Any]  # (step, report, scalars, the model or weights that were measured)


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
        self, model: Any, *, every: int = 1, lenses: Iterable[str] | str = ("spectra",), data: Any = None,
        loss: Any = "cross_entropy", layers: Iterable[Selector] | Selector | None = None, budget: float | None = 0.05,
        background: bool = False, path: str | Path | None = None, resume: bool = False, name: str = "run",
        warn_on: Iterable[str | Criterion] | str = (), stop_on: Iterable[str | Criterion] | str = (),
        best: str | None = None, log: Sequence[str] | str | None = None, settings: Settings | None = None,
        clock: Callable[[], float] | None = None, **options: Any,
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
        :param warn_on, stop_on: sentences like "alpha in fc* < 2" (:mod:`layerscope.monitor.criteria`).
        :param best: "min loss", "max accuracy", "min mean(alpha)": weights at the best check are kept for
            :meth:`restore`.
        :param log: metrics that :attr:`Check.metrics` has of each layer.
        :param options: settings by name, and with the conditioning lens what :func:`~layerscope.conditioning` takes.
        :raises UsageError: numbers out of range, unknown lenses or criteria, a path that exists.
        """
        check_schedule_options(every, budget)
        self.lenses = as_tuple(lenses)
        check_lenses(self.lenses, data, background)
        self.log = logged_metrics(log, self.lenses)
        self.model, self.background = model, background
        self.data, self.loss, self.layers, self.settings = data, loss, layers, settings
        self.options = options
        if "conditioning" not in self.lenses and not (isinstance(model, Mapping) and not model):
            analysis.describe(model, layers=layers, settings=settings, **options)  # what is wrong is said now
        self.warn_on, self.stop_on = ([Criterion.of(x) for x in as_tuple(texts)] for texts in (warn_on, stop_on))
        self.best = Best.of(best) if best else None
        self.stopped = ""  # why the run should stop
        self._schedule = CheckSchedule(as_step(every), budget, clock or time.perf_counter)
        self._background = BackgroundCheck()
        self._warnings = WarningLog()
        self._best_weights: Any = None
        self._history: History | None = None  # as it was read last
        self._first_report: Report | None = None  # verdicts speak of what changed since
        self._first_weights: Any = None
        self._previous_weights: Any = None
        self._writer = HistoryWriter(path, name, resume=resume)
        last = self.journal.last
        if last is not None:  # what held before the interruption goes on to hold
            self._replay()
            self._schedule.advance(last.step)
        self._is_resumed = last is not None
        self.now = last.step if last is not None else -1  # the last step that was seen
        self._last_checked = self.now

    @property
    def journal(self) -> run_journal.Journal:
        """The file to which each check is added."""
        return self._writer.journal

    @property
    def every(self) -> int:
        """Steps from one check to the next."""
        return self._schedule.every

    @property
    def budget(self) -> float | None:
        """Share of the training time that checks may take."""
        return self._schedule.budget

    @property
    def seconds(self) -> float:
        """Seconds that checks took so far."""
        return self._schedule.seconds

    @property
    def skipped(self) -> int:
        """Checks that the budget did not allow."""
        return self._schedule.skipped

    @property
    def share(self) -> float:
        """Of the training time that checks took so far."""
        return self._schedule.share

    def step(self, number: int | None = None, *, model: Any = None, **scalars: float) -> Check | None:
        """One step of the loop is done; what was found, where it was checked.

        :param number: of the step; without it steps are counted from 0.
        :param model: the weights now, where they are values.
        :param scalars: numbers that belong to the step: loss=…, accuracy=…
        :raises UsageError: a number that does not ascend, a scalar that is no number, a monitor that is closed.
        """
        return self.advance(scalars, number, model)

    def advance(self, scalars: Mapping[str, Any], number: int | None = None, model: Any = None) -> Check | None:
        """:meth:`step` with the scalars as a mapping: whatever they are called."""
        now = self.now + 1 if number is None else as_step(number)
        if now <= self.now:
            raise UsageError(f"step {now} after step {self.now}: steps ascend")
        if not self.journal.open:
            raise UsageError("the monitor is closed: reopen() goes on with its history")
        self.now = now
        self._schedule.start()
        if model is not None:
            self.model = model
        finished = self._take_background_check() if self._background.is_finished else None
        if not self._schedule.is_due(now) or self._background.is_running:
            return finished
        if not self._schedule.is_affordable():
            self._schedule.skip(now)
            return finished
        return self.check(now, scalars) or finished

    def check(self, step: int, scalars: Mapping[str, Any] | None = None) -> Check | None:
        """Check now, as this step, whatever the budget; None where it is done in the background, or failed.

        :raises UsageError: the first check cannot be made; of a later one a warning says so, and the run goes on.
        """
        if step <= self._last_checked:
            raise UsageError(f"step {step} after step {self._last_checked}: steps ascend")
        numbers, is_first = finite_scalars(scalars or {}), self._last_checked < 0
        self.now, self._last_checked = max(self.now, step), step
        self._schedule.advance(step)
        with self._schedule.timed(is_whole_check=not self.background):
            try:
                if not self.background:
                    return self._judge(*self._measure(step, self.model, numbers))
                self._start_background_check(step, snapshots.copy_model(self.model), numbers)
            except LayerscopeError as error:
                if is_first:
                    raise
                warn_user(f"step {step}: it could not be checked: {error}")
        return None

    def _start_background_check(self, step: int, snapshot: Any, scalars: dict[str, float]) -> None:
        def measure() -> Measured:
            with self._schedule.timed():
                return self._measure(step, snapshot, scalars)

        self._background.start(measure)

    def _take_background_check(self) -> Check | None:
        """The check that the thread made; a failure becomes a warning."""
        result = self._background.take()
        if isinstance(result, Exception):
            warn_user(f"step {self._last_checked}: it could not be checked: {type(result).__name__}: {result}")
            return None
        return self._judge(*result) if result is not None else None

    def _measure(self, step: int, model: Any, scalars: dict[str, float]) -> Measured:
        options = {"layers": self.layers, "settings": self.settings, **self.options}
        if "conditioning" in self.lenses:
            fits = {} if "spectra" in self.lenses else {"fits": ()}
            report = conditioning(model, self.data, self.loss, **{**fits, "since": self._first_report, **options})
            self._first_report = self._first_report or report
        else:
            report = analysis.analyze(model, **options)
        if "landscape" in self.lenses:
            scalars |= self._measure_distances(model)
        return step, report, scalars, model

    def _measure_distances(self, model: Any) -> dict[str, float]:
        """l2 distances of the learned weights from those of the first check and of the one before."""
        weights = snapshots.copy_learned_tensors(model)
        distances = {}
        if self._first_weights is not None and not self._is_resumed:  # of a resumed run the start is not known
            distances["distance_from_start"] = snapshots.distance(weights, self._first_weights)
        if self._previous_weights is not None:
            distances["distance_moved"] = snapshots.distance(weights, self._previous_weights)
        self._first_weights = weights if self._first_weights is None else self._first_weights
        self._previous_weights = weights
        return distances

    def _judge(self, step: int, report: Report, scalars: dict[str, float], model: Any) -> Check:
        reasons = [
            *self._warnings.describe_layer_problems(report),
            *(why for x in self.warn_on if (why := x.judge(report))),
        ]
        stop = next((why for criterion in self.stop_on if (why := criterion.judge(report))), "")
        self.stopped = self.stopped or stop
        if self.best is not None and self.best.better(step, report, scalars):
            self._best_weights = snapshots.copy_state(model)
        reasons += self._writer.add(step, scalars, report)
        self._warnings.warn(step, reasons)
        return Check(step, report, scalars, flatten_metrics(report, scalars, reasons, self.log), tuple(reasons), stop)

    def _replay(self) -> None:
        """Judge what is in the history, so that what is counted goes on to count."""
        for record in run_journal.read_records(self._writer.path):
            self._first_report = self._first_report or record.report
            for criterion in (*self.warn_on, *self.stop_on):
                criterion.judge(record.report)
            self._warnings.describe_layer_problems(record.report)
            if self.best is not None:
                self.best.better(record.step, record.report, record.scalars)

    @property
    def history(self) -> History:
        """All checks so far, read from the file.

        :raises UsageError: there is none.
        """
        if self._last_checked < 0:
            raise UsageError("nothing was checked yet: call step() in the loop")
        if self._history is None or self._history.steps[-1] != self._last_checked:
            self._history = report_file.load_history(self.journal.path)
        return self._history

    @property
    def restorable(self) -> bool:
        """Does it hold the weights of the best check? Those of a process before this one it does not."""
        return self._best_weights is not None

    def restore(self) -> Any:
        """Put the weights of the best check back into the model; where weights are values, return them.

        :raises UsageError: ``best`` was not asked for, no check had its number, or it was made by another process.
        """
        if self.best is None or self._best_weights is None:
            why = "best= was not asked for" if self.best is None else f"no check had a number for {self.best.text!r}"
            if self.best is not None and self.best.step >= 0:
                why = f"the best check, step {self.best.step}, was made before this process"
            raise UsageError(f"there are no weights to restore: {why}")
        return snapshots.restore_state(self.model, self._best_weights)

    def close(self) -> Check | None:
        """Wait for the check that is being made, write what waits, let others write the file."""
        if not self.journal.open:
            return None
        try:
            check = self._take_background_check() if self._background.is_running else None
            if self._writer.write_waiting():
                warn_user(f"{self.journal.path}: {self._writer.waiting} checks could not be written and are lost")
            if self._last_checked >= 0:
                self._warn_unevaluated_criteria()
            return check
        finally:
            self.journal.close()

    def reopen(self) -> Monitor:
        """Go on with the history after :meth:`close`.

        :raises UsageError: somebody else writes it.
        """
        self._writer.reopen()
        return self

    def _warn_unevaluated_criteria(self) -> None:
        for criterion in (*self.warn_on, *self.stop_on):
            if not criterion.heard:
                warn_user(f"{criterion.text!r} was never judged: no layer had it")
        if self.best is not None and self.best.step < 0:
            warn_user(f"{self.best.text!r}: no check had that number")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

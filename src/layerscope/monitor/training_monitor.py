"""The training monitor: checks a model every n steps, within a time budget, and stores the checks in one file."""

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
from layerscope.text import plural

Measured = tuple[int, Report, dict[str, float], Any]  # (step, report, scalars, measured model or weights)


class Monitor:
    """Checks a model every n steps of a training loop, in any framework.

    ::

        monitor = layerscope.Monitor(model, every=100, path="run.layerscope", stop_on=["mean(alpha) < 2 for 3 checks"])
        for batch in loader:
            ...
            optimizer.step()
            check = monitor.step(loss=loss.item())
            if check and check.stop:
                break
        monitor.close()

    The monitor times its own checks and skips a check that would exceed ``budget``, a share of the training time. Each
    check is appended to one history file, so that a killed process loses at most the check that it was writing.
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
        :param model: live model of any framework. If the loop replaces the weights (JAX), pass the initial weights here
            and the later ones to ``step(model=…)``.
        :param every: number of steps between checks; the first step is checked.
        :param lenses: one or more of "spectra" (weights only), "conditioning" (PyTorch, with ``data`` and ``loss``) and
            "landscape" (distances that the weights have moved).
        :param data, loss: data and loss for the conditioning lens, as for :func:`~layerscope.conditioning`.
        :param layers: names, globs or indices of the layers to check; None for all.
        :param budget: largest share of the training time to spend on checks; None for no limit.
        :param background: analyze a copy of the model in a thread. ``step`` then returns the check at the first step
            after it is done. Not available for the conditioning lens.
        :param path: history file; None for a temporary file.
        :param resume: continue an existing history file.
        :param name: name of the run.
        :param warn_on, stop_on: criteria such as "alpha in fc* < 2" (:mod:`layerscope.monitor.criteria`) for warnings,
            and for the request to stop.
        :param best: "min loss", "max accuracy" or "min mean(alpha)", for example. The weights of the best check are
            stored for :meth:`restore`.
        :param log: metrics of each layer to include in :attr:`Check.metrics`.
        :param clock: function that returns the time in seconds; by default ``time.perf_counter``.
        :param settings, options: settings of the analysis, as an object and by name. With the conditioning lens,
            ``options`` also takes those of :func:`~layerscope.conditioning`.
        :raises UsageError: a number is out of range, a lens or criterion is unknown, or the path exists already.
        """
        check_schedule_options(every, budget)
        self.lenses = as_tuple(lenses)
        check_lenses(self.lenses, data, background)
        self.log = logged_metrics(log, self.lenses)
        self.model, self.background = model, background
        self.data, self.loss, self.layers, self.settings = data, loss, layers, settings
        self.options = options
        if "conditioning" not in self.lenses and not (isinstance(model, Mapping) and not model):
            analysis.describe(model, layers=layers, settings=settings, **options)  # raises errors early
        self.warn_on, self.stop_on = ([Criterion.of(x) for x in as_tuple(texts)] for texts in (warn_on, stop_on))
        self.best = Best.of(best) if best else None
        self.stopped = ""  # why the run should stop
        self._schedule = CheckSchedule(as_step(every), budget, clock or time.perf_counter)
        self._background = BackgroundCheck()
        self._warnings = WarningLog()
        self._best_weights: Any = None
        self._history: History | None = None  # last one read from the file
        self._first_report: Report | None = None  # verdicts describe changes since then
        self._first_weights: Any = None
        self._previous_weights: Any = None
        self._writer = HistoryWriter(path, name, resume=resume)
        last = self.journal.last
        if last is not None:  # restore the state of criteria and warnings
            self._replay()
            self._schedule.advance(last.step)
        self._is_resumed = last is not None
        self.now = last.step if last is not None else -1  # number of the last step
        self._last_checked = self.now

    @property
    def journal(self) -> run_journal.Journal:
        """The file that each check is appended to."""
        return self._writer.journal

    @property
    def every(self) -> int:
        """Number of steps between checks."""
        return self._schedule.every

    @property
    def budget(self) -> float | None:
        """Largest share of the training time to spend on checks; None for no limit."""
        return self._schedule.budget

    @property
    def seconds(self) -> float:
        """Time spent on checks so far, in seconds."""
        return self._schedule.seconds

    @property
    def skipped(self) -> int:
        """Number of checks skipped because of the budget."""
        return self._schedule.skipped

    @property
    def share(self) -> float:
        """Time spent on checks so far, as a share of the training time."""
        return self._schedule.share

    def step(self, number: int | None = None, *, model: Any = None, **scalars: float) -> Check | None:
        """Register a finished training step; return the check if one was made, else None.

        :param number: number of the step; steps are counted from 0 if it is omitted.
        :param model: the current weights, if the loop replaces them (JAX).
        :param scalars: numbers to store with the step, e.g. loss=…, accuracy=…
        :raises UsageError: the number is not larger than that of the step before, a scalar is not a number, or the
            monitor is closed.
        """
        return self.advance(scalars, number, model)

    def advance(self, scalars: Mapping[str, Any], number: int | None = None, model: Any = None) -> Check | None:
        """Like :meth:`step`, with the scalars as a mapping, so that they can have any name."""
        now = self.now + 1 if number is None else as_step(number)
        if now <= self.now:
            raise UsageError(f"step {now} after step {self.now}: step numbers must increase")
        if not self.journal.open:
            raise UsageError("the monitor is closed; call reopen() to continue its history")
        self.now = now
        self._schedule.start()
        if model is not None:
            self.model = model
        finished = self._take_background_check() if self._background.is_finished else None
        if not self._schedule.is_due(now) or self._background.is_running:
            return finished
        if not self._schedule.is_affordable():
            self._skip(now)
            return finished
        return self.check(now, scalars) or finished

    def _skip(self, step: int) -> None:
        """Skip a check that would exceed the budget; the first time, warn and say what to change."""
        self._schedule.skip(step)
        if self.skipped == 1:
            waiting = ", and stop_on= waits until then" if self.stop_on else ""
            warn_user(
                f"the check at step {step} is skipped, as later ones may be, until the budget allows one{waiting}: "
                f"{self._schedule.advice()}"
            )

    def check(self, step: int, scalars: Mapping[str, Any] | None = None) -> Check | None:
        """Check now and store the result under this step, even if this exceeds the budget.

        Return None if the check runs in the background or failed. Failures after the first check only cause a warning.

        :raises LayerscopeError: the first check failed.
        :raises UsageError: the step is not larger than that of the check before.
        """
        if step <= self._last_checked:
            raise UsageError(f"step {step} after step {self._last_checked}: step numbers must increase")
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
                warn_user(f"step {step} could not be checked: {error}")
        return None

    def _start_background_check(self, step: int, snapshot: Any, scalars: dict[str, float]) -> None:
        def measure() -> Measured:
            with self._schedule.timed():
                return self._measure(step, snapshot, scalars)

        self._background.start(measure)

    def _take_background_check(self) -> Check | None:
        """Return the check from the thread; a failure becomes a warning."""
        result = self._background.take()
        if isinstance(result, Exception):
            warn_user(f"step {self._last_checked} could not be checked: {type(result).__name__}: {result}")
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
        """Return the l2 distances of the trained weights from the first check and from the previous one."""
        weights = snapshots.copy_learned_tensors(model)
        distances = {}
        if self._first_weights is not None and not self._is_resumed:  # a resumed run no longer has its first weights
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
        """Evaluate all criteria on the stored history, so that their counts of checks in a row continue."""
        for record in run_journal.read_records(self._writer.path):
            self._first_report = self._first_report or record.report
            for criterion in (*self.warn_on, *self.stop_on):
                criterion.judge(record.report)
            self._warnings.describe_layer_problems(record.report)
            if self.best is not None:
                self.best.better(record.step, record.report, record.scalars)

    @property
    def history(self) -> History:
        """All checks so far, read from the history file.

        :raises UsageError: no check was made yet.
        """
        if self._last_checked < 0:
            raise UsageError("nothing was checked yet; call step() in the training loop")
        if self._history is None or self._history.steps[-1] != self._last_checked:
            self._history = report_file.load_history(self.journal.path)
        return self._history

    @property
    def restorable(self) -> bool:
        """Whether the weights of the best check are in memory. Weights from an earlier process are not."""
        return self._best_weights is not None

    def restore(self) -> Any:
        """Restore the weights of the best check and return the model, or the weights if the loop replaces them (JAX).

        :raises UsageError: ``best`` was not set, no check had its value, or an earlier process made the best check.
        """
        if self.best is None or self._best_weights is None:
            why = "best= was not set, e.g. best='min loss'"
            if self.best is not None:
                why = f"no check had a value for {self.best.text!r}"
            if self.best is not None and self.best.step >= 0:
                why = f"an earlier process made the best check, step {self.best.step}"
            raise UsageError(f"there are no weights to restore: {why}; load a checkpoint instead")
        return snapshots.restore_state(self.model, self._best_weights)

    def close(self) -> Check | None:
        """Wait for a running check and return it, write unwritten checks, and release the history file."""
        if not self.journal.open:
            return None
        try:
            check = self._take_background_check() if self._background.is_running else None
            if self._writer.write_waiting():
                lost = plural(self._writer.waiting, "check")
                warn_user(f"{self.journal.path}: lost {lost} that could not be written")
            if self._last_checked >= 0:
                self._warn_unevaluated_criteria()
            if self.skipped:
                made = plural(self._schedule.made, "check")
                warn_user(f"{made} made, {self.skipped} skipped: {self._schedule.advice()}")
            return check
        finally:
            self.journal.close()

    def reopen(self) -> Monitor:
        """Continue the history after :meth:`close`.

        :raises UsageError: another process writes to the history file.
        """
        self._writer.reopen()
        return self

    def _warn_unevaluated_criteria(self) -> None:
        for criterion in (*self.warn_on, *self.stop_on):
            if not criterion.heard:
                warn_user(f"the criterion {criterion.text!r} was never evaluated: no layer had a value for it")
        if self.best is not None and self.best.step < 0:
            warn_user(f"best={self.best.text!r}: no check had this value; pass it to step()")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

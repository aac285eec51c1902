"""Watching a model while it trains: a check every so many steps, within a share of the time, kept in one file."""

from __future__ import annotations

import math
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, SupportsIndex

from layerscope import api
from layerscope.errors import LayerscopeError, OutputError, UnknownName, UsageError
from layerscope.history import History
from layerscope.learning import snapshots
from layerscope.learning.checks import LOGGED, Check, Warned, flat, say
from layerscope.learning.criteria import Best, Criterion
from layerscope.learning.monitor import finite
from layerscope.report import Report
from layerscope.selection import Selector
from layerscope.settings import Settings
from layerscope.views import frame, journal, store

LENSES = ("spectra", "conditioning", "landscape")
KEPT = 16  # checks that wait for room on the disk
Found = tuple[int, Report, dict[str, float], Any]  # (step, report, numbers, the weights that were measured)


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
        :param warn_on, stop_on: sentences like "alpha in fc* < 2" (:mod:`layerscope.learning.criteria`).
        :param best: "min loss", "max accuracy", "min mean(alpha)": weights at the best check are kept for
            :meth:`restore`.
        :param log: metrics that :attr:`Check.metrics` has of each layer.
        :param options: settings by name, and with the conditioning lens what :func:`~layerscope.conditioning` takes.
        :raises UsageError: numbers out of range, unknown lenses or criteria, a path that exists.
        """
        if not isinstance(every, SupportsIndex) or isinstance(every, bool) or every < 1:
            raise UsageError(f"every must be a whole number of steps, 1 or more, not {every!r}")
        if budget is not None and not (isinstance(budget, float | int) and 0 < budget <= 1):
            raise UsageError(f"budget is a share of the training time above 0 and up to 1, not {budget!r}")
        self.lenses = tuple(_several(lenses))
        for lens in self.lenses or ("",):
            if lens not in LENSES:
                raise UnknownName("lens", lens, LENSES)
        if "conditioning" in self.lenses and (data is None or isinstance(data, Iterator)):
            what = "an iterator, which can be gone through once" if data is not None else "none"
            raise UsageError(f"the conditioning lens measures on data=(x, y), a few hundred examples: not on {what}")
        if "conditioning" in self.lenses and background:
            raise UsageError("conditioning runs the model: it cannot be measured in the background")
        self.log = tuple(_several(log)) if log is not None else tuple(n for lens in self.lenses for n in LOGGED[lens])
        known = frame.metric_names()
        for each in self.log:
            if each not in known:
                raise UnknownName("metric", each, known)
        self.model, self.every, self.budget, self.background = model, int(every), budget, background
        self.data, self.loss, self.layers, self.settings = data, loss, layers, settings
        self.options = options
        if "conditioning" not in self.lenses and not (isinstance(model, Mapping) and not model):
            api.describe(model, layers=layers, settings=settings, **options)  # what is wrong is said now
        self.warn_on, self.stop_on = ([Criterion.of(x) for x in _several(texts)] for texts in (warn_on, stop_on))
        self.best = Best.of(best) if best else None
        self.seconds = 0.0  # that checks took
        self.skipped = 0  # checks that the budget did not allow
        self.stopped = ""  # why the run should stop
        self._clock = clock or time.perf_counter
        self._begin: float | None = None
        self._last = 0.0  # seconds of the last check
        self._warned = Warned()
        self._weights: Any = None  # of the best check
        self._first: Report | None = None  # verdicts speak of what changed since
        self._start: Any = None
        self._before: Any = None
        self._waiting: list[tuple[int, Mapping[str, float], Report]] = []
        self._thread: threading.Thread | None = None
        self._ready: Found | Exception | None = None
        where = _temporary(self) if path is None else Path(path)
        self.journal = journal.Journal(where, name, resume=resume)
        last = self.journal.last
        if last is not None:  # what held before the interruption goes on to hold
            self._replayed(where)
        self._resumed = last is not None
        self.now = last.step if last is not None else -1  # the last step that was seen
        self._next = last.step + every if last is not None else 0
        self._checked = self.now

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
        now = self.now + 1 if number is None else _whole(number)
        if now <= self.now:
            raise UsageError(f"step {now} after step {self.now}: steps ascend")
        if not self.journal.open:
            raise UsageError("the monitor is closed: reopen() goes on with its history")
        self.now = now
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
        return self.check(now, scalars) or ready

    def check(self, step: int, scalars: Mapping[str, Any] | None = None) -> Check | None:
        """Check now, as this step, whatever the budget; None where it is done in the background, or failed.

        :raises UsageError: the first check cannot be made; of a later one a warning says so, and the run goes on.
        """
        if step <= self._checked:
            raise UsageError(f"step {step} after step {self._checked}: steps ascend")
        given, first = finite(scalars or {}), self._checked < 0
        self.now, self._checked, self._next = max(self.now, step), step, step + self.every
        clock = self._clock()
        try:
            if self.background:
                self._begun(step, snapshots.copied(self.model), given)
                self.seconds += self._clock() - clock
                return None
            return self._judged(*self._measured(step, self.model, given))
        except LayerscopeError as error:
            if first:
                raise
            say(f"step {step}: it could not be checked: {error}")
            return None
        finally:
            if not self.background:
                self._last = self._clock() - clock
                self.seconds += self._last

    def _begun(self, step: int, snapshot: Any, given: dict[str, float]) -> None:
        def work() -> None:
            clock = self._clock()
            try:
                self._ready = self._measured(step, snapshot, given)
            except Exception as error:  # of another thread: told when the loop comes by
                self._ready = error
            self._last = self._clock() - clock
            self.seconds += self._last

        self._thread = threading.Thread(target=work, name="layerscope", daemon=True)
        self._thread.start()

    def _affordable(self) -> bool:
        """Would another check like the last one stay within the budget?"""
        if self.budget is None or self._last == 0.0 or self._begin is None:
            return True
        training = self._clock() - self._begin - self.seconds
        return self.seconds + self._last <= self.budget * max(training, 0.0)

    def _measured(self, step: int, model: Any, scalars: dict[str, float]) -> Found:
        how = {"layers": self.layers, "settings": self.settings, **self.options}
        if "conditioning" in self.lenses:
            from layerscope.learning.conditioning import conditioning

            fits = {} if "spectra" in self.lenses else {"fits": ()}
            report = conditioning(model, self.data, self.loss, **{**fits, "since": self._first, **how})
            self._first = self._first or report
        else:
            report = api.analyze(model, **how)
        if "landscape" in self.lenses:
            scalars |= self._moved(model)
        return step, report, scalars, model

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

    def _take(self) -> Check | None:
        """What the thread found; what it could not find is told."""
        found, self._thread, self._ready = self._ready, None, None
        if isinstance(found, Exception):
            say(f"step {self._checked}: it could not be checked: {type(found).__name__}: {found}")
            return None
        return self._judged(*found) if found is not None else None

    def _judged(self, step: int, report: Report, scalars: dict[str, float], model: Any) -> Check:
        told = [*self._warned.layers(report), *(why for each in self.warn_on if (why := each.judge(report)))]
        stop = next((why for each in self.stop_on if (why := each.judge(report))), "")
        self.stopped = self.stopped or stop
        if self.best is not None and self.best.better(step, report, scalars):
            self._weights = snapshots.state(model)
        self._waiting.append((step, scalars, report))
        told += self._written()
        self._warned.warn(step, told)
        return Check(step, report, scalars, flat(report, scalars, told, self.log), tuple(told), stop)

    def _written(self) -> list[str]:
        """Add what waits to the history; what cannot be written waits for room, the run goes on."""
        try:
            while self._waiting:
                self.journal.append(*self._waiting[0])
                self._waiting.pop(0)
        except OutputError as error:
            lost = len(self._waiting) > KEPT
            self._waiting = self._waiting[-KEPT:]
            return [f"{error}: the run goes on; {'the oldest checks are lost' if lost else 'checks wait for room'}"]
        return []

    def _replayed(self, where: Path) -> None:
        """Judge what is in the history, so that what is counted goes on to count."""
        for record in journal.records(where):
            self._first = self._first or record.report
            for criterion in (*self.warn_on, *self.stop_on):
                criterion.judge(record.report)
            self._warned.layers(record.report)
            if self.best is not None:
                self.best.better(record.step, record.report, record.scalars)

    @property
    def history(self) -> History:
        """All checks so far, read from the file.

        :raises UsageError: there is none.
        """
        if self._checked < 0:
            raise UsageError("nothing was checked yet: call step() in the loop")
        return store.load_history(self.journal.path)

    @property
    def share(self) -> float:
        """Of the training time that checks took so far."""
        if self._begin is None:
            return 0.0
        training = self._clock() - self._begin - self.seconds
        return self.seconds / training if training > 0 else math.inf

    @property
    def restorable(self) -> bool:
        """Does it hold the weights of the best check? Those of a process before this one it does not."""
        return self._weights is not None

    def restore(self) -> Any:
        """Put the weights of the best check back into the model; where weights are values, return them.

        :raises UsageError: ``best`` was not asked for, no check had its number, or it was made by another process.
        """
        if self.best is None or self._weights is None:
            why = "best= was not asked for" if self.best is None else f"no check had a number for {self.best.text!r}"
            if self.best is not None and self.best.step >= 0:
                why = f"the best check, step {self.best.step}, was made before this process"
            raise UsageError(f"there are no weights to restore: {why}")
        return snapshots.put_back(self.model, self._weights)

    def close(self) -> Check | None:
        """Wait for the check that is being made, write what waits, let others write the file."""
        if not self.journal.open:
            return None
        try:
            found = None
            if self._thread is not None:
                self._thread.join()
                found = self._take()
            if self._written():
                say(f"{self.journal.path}: {len(self._waiting)} checks could not be written and are lost")
            if self._checked >= 0:
                self._unheard()
            return found
        finally:
            self.journal.close()

    def reopen(self) -> Monitor:
        """Go on with the history after :meth:`close`.

        :raises UsageError: somebody else writes it.
        """
        if not self.journal.open:
            self.journal = journal.Journal(self.journal.path, self.journal.name, resume=True)
        return self

    def _unheard(self) -> None:
        """What was asked for and could never be told."""
        for each in (*self.warn_on, *self.stop_on):
            if not each.heard:
                say(f"{each.text!r} was never judged: no layer had it")
        if self.best is not None and self.best.step < 0:
            say(f"{self.best.text!r}: no check had that number")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _several(texts: Any) -> Iterable[Any]:
    return (texts,) if isinstance(texts, str | Criterion) else texts


def _whole(number: Any) -> int:
    """
    :raises UsageError: no whole number.
    """
    if isinstance(number, bool) or not isinstance(number, SupportsIndex):
        raise UsageError(f"a step is a whole number, not {number!r:.40}")
    return number.__index__()


def _temporary(owner: Any) -> Path:
    """An empty file that goes with its owner, and not with a child of its process."""
    handle, path = tempfile.mkstemp(".layerscope")
    os.close(handle)
    weakref.finalize(owner, _removed, path, os.getpid())
    return Path(path)


def _removed(path: str, process: int) -> None:
    if os.getpid() == process:
        Path(path).unlink(missing_ok=True)

"""How far a run has come: on a terminal, in a notebook, or in the tqdm that a user brings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from layerscope.records.layers import LayerReport
from layerscope.text import printable

Progress = Callable[[LayerReport | None, float, float], None]  # (layer done, its cost, total cost)
MAX_NAME_CHARS = 40  # characters of a layer's name beside the bar


@contextmanager
def progress_callback(progress: Any, target: object) -> Iterator[Progress | None]:
    """What ``progress`` of analyze stands for: True is a bar, a tqdm class its bar, a function itself."""
    if not progress:
        yield None
    elif hasattr(progress, "update") and hasattr(progress, "close"):
        with _tqdm_bar(progress, target) as update:
            yield update
    elif progress is True:
        with progress_bar(target) as update:
            yield update
    else:
        yield progress


@contextmanager
def progress_bar(target: object) -> Iterator[Progress | None]:
    """A bar by layer, weighted by cost: in a notebook's cell, or on a terminal; none in a pipe."""
    if _is_in_notebook():
        yield _notebook_bar(target)
    elif sys.stderr.isatty():
        with _terminal_bar(target) as update:
            yield update
    else:
        yield None


@contextmanager
def _terminal_bar(target: object) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False, markup=False)
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[layer]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", layer=printable(target, MAX_NAME_CHARS), total=None)

        def update(layer: LayerReport | None, cost: float, total: float) -> None:
            if layer is None:
                progress.update(task, total=total)
            else:
                progress.update(task, advance=cost, layer=printable(layer.name, MAX_NAME_CHARS))

        yield update


@contextmanager
def _tqdm_bar(tqdm: Any, target: object) -> Iterator[Progress]:
    bar = tqdm(total=0, desc=printable(target, MAX_NAME_CHARS), unit="flop", unit_scale=True)

    def update(layer: LayerReport | None, cost: float, total: float) -> None:
        if layer is None:
            bar.total = total
            bar.refresh()
        else:
            bar.update(cost)

    try:
        yield update
    finally:
        bar.close()


def _notebook_bar(target: object) -> Progress:
    """A bar of the browser's own, which needs no widgets."""
    from IPython.display import HTML, display

    finished_cost, name = 0.0, escape(printable(target, MAX_NAME_CHARS))
    cell = display(HTML(f"<progress></progress> {name}"), display_id=True)

    def update(layer: LayerReport | None, cost: float, total: float) -> None:
        nonlocal finished_cost
        finished_cost += cost
        share = finished_cost / total if total else 1.0
        label = name if layer is None else escape(printable(layer.name, MAX_NAME_CHARS))
        if cell is not None:
            cell.update(HTML(f'<progress max="1" value="{share:.4f}"></progress> {share:.0%} {label}'))

    return update


def _is_in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None

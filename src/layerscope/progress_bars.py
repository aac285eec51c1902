"""Progress bars for the terminal, for notebooks and for tqdm."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from layerscope.records.layers import LayerReport
from layerscope.text import printable

Progress = Callable[[LayerReport | None, float, float], None]  # called with (finished layer, its cost, total cost)
MAX_NAME_CHARS = 40  # most characters of a layer's name next to the bar


@contextmanager
def progress_callback(progress: Any, target: object) -> Iterator[Progress | None]:
    """Turn the argument ``progress`` of analyze into a callback.

    :param progress: True for a bar of layerscope, a tqdm class for its bar, or a callback; a false value gives None.
    :param target: name to show until the first layer is finished.
    """
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
    """Show a bar in a notebook or on a terminal, advanced by the cost of each layer; yield None in a pipe."""
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
    """Show an HTML progress element, which needs no notebook widgets."""
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

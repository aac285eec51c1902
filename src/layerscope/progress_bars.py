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
LONGEST = 40  # characters of a layer's name beside the bar


@contextmanager
def watched(progress: Any, target: object) -> Iterator[Progress | None]:
    """What ``progress`` of analyze stands for: True is a bar, a tqdm class its bar, a function itself."""
    if not progress:
        yield None
    elif hasattr(progress, "update") and hasattr(progress, "close"):
        with _of_tqdm(progress, target) as update:
            yield update
    elif progress is True:
        with bar(target) as update:
            yield update
    else:
        yield progress


@contextmanager
def bar(target: object) -> Iterator[Progress | None]:
    """A bar by layer, weighted by cost: in a notebook's cell, or on a terminal; none in a pipe."""
    if _in_notebook():
        yield _of_notebook(target)
    elif sys.stderr.isatty():
        with _of_terminal(target) as update:
            yield update
    else:
        yield None


@contextmanager
def _of_terminal(target: object) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False, markup=False)
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[layer]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", layer=printable(target, LONGEST), total=None)

        def update(layer: LayerReport | None, cost: float, total: float) -> None:
            if layer is None:
                shown.update(task, total=total)
            else:
                shown.update(task, advance=cost, layer=printable(layer.name, LONGEST))

        yield update


@contextmanager
def _of_tqdm(tqdm: Any, target: object) -> Iterator[Progress]:
    shown = tqdm(total=0, desc=printable(target, LONGEST), unit="flop", unit_scale=True)

    def update(layer: LayerReport | None, cost: float, total: float) -> None:
        if layer is None:
            shown.total = total
            shown.refresh()
        else:
            shown.update(cost)

    try:
        yield update
    finally:
        shown.close()


def _of_notebook(target: object) -> Progress:
    """A bar of the browser's own, which needs no widgets."""
    from IPython.display import HTML, display

    done, name = 0.0, escape(printable(target, LONGEST))
    shown = display(HTML(f"<progress></progress> {name}"), display_id=True)

    def update(layer: LayerReport | None, cost: float, total: float) -> None:
        nonlocal done
        done += cost
        share = done / total if total else 1.0
        what = name if layer is None else escape(printable(layer.name, LONGEST))
        if shown is not None:
            shown.update(HTML(f'<progress max="1" value="{share:.4f}"></progress> {share:.0%} {what}'))

    return update


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None

"""Measure the size of a page, the time to write it and its speed in Chromium; write docs/benchmarks-page.md."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import page_of

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
TITLE = "Benchmarks: HTML page"
ABOUT = "This page shows the size of a report page, the time to write it, and how fast a browser shows it."
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LAYERS = (100, 1000)
DRAWN = "[data-charts] svg.chart"


def measure_writing(count: int, path: Path, repeats: int) -> tuple[float, float]:
    """Write a page with ``count`` layers, shuffles and evidence; return (MB, CPU seconds)."""
    from tests.views.pages import deep

    report = deep(count, randomize=True, evidence=True, bootstrap=2)
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        report.html(path)
        seconds.append(time.process_time() - start)
    return path.stat().st_size / 1e6, statistics.median(seconds)


def measure_browser(browser: Any, path: Path, repeats: int) -> dict[str, float]:
    """Measure wall-clock seconds (medians): until the first plot, to sort, to search, to open a row."""
    runs: list[dict[str, float]] = []
    for _ in range(repeats):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        clock = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_selector(DRAWN)
        seconds_by_action = {"first plot": time.perf_counter() - clock}
        for name, action in (
            ("sort", "document.querySelectorAll('#layers thead button')[3].click()"),
            ("search", "(() => { const s = document.querySelector('#search'); s.value = '7';"
             " s.dispatchEvent(new Event('input')); })()"),
            ("open a row", "document.querySelector('tr[data-row]:not([hidden]) button').click()"),
        ):  # fmt: skip
            clock = time.perf_counter()
            page.evaluate(action)
            if name == "open a row":
                page.wait_for_selector("tr.detail svg.chart")
            page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            seconds_by_action[name] = time.perf_counter() - clock
        runs.append(seconds_by_action)
        page.close()
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    """Measure and write the page."""
    options = page_of.options(__doc__, 5)
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        sys.exit("Chromium is not installed; install it with: make browser")
    from playwright.sync_api import sync_playwright

    lines = ["| layers | size, MB | write, CPU s | first plot, s | sort, s | search, s | open a row, s |",
             "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        version = browser.version
        for count in LAYERS:
            path = Path(scratch, f"{count}.html")
            size, seconds = measure_writing(count, path, options.repeats)
            cells = measure_browser(browser, path, options.repeats)
            lines.append(f"| {count:,} | {size:.2f} | {seconds:.2f} | " + " | ".join(f"{v:.2f}" for v in cells.values())
                         + " |")  # fmt: skip
        browser.close()
    conditions = f"It used Chromium {version} and layers of 128 × 100 with shuffles and evidence."
    how = (
        f"{conditions} The numbers are medians of {options.repeats} runs. Times in the browser are wall-clock seconds, "
        "and end two frames after the action."
    )
    page_of.write(TITLE, ABOUT, how, [lines], options.write)


if __name__ == "__main__":
    main()

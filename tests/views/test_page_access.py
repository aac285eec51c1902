"""The HTML page for every reader: without barriers, without scripts, on paper, light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.requirements import require
from tests.views.pages import Watched


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["plane", "experiment"])
def test_pages_without_rows_to_open_have_no_barrier(
    name: str, scheme: str, pages: dict[str, Path], chromium: Any
) -> None:
    axe = require("axe_playwright_python.sync_playwright")
    page = chromium.new_page(color_scheme=scheme, reduced_motion="reduce")
    watched = Watched(page)
    watched.open(pages[name])
    page.wait_for_selector("svg.chart path.quad")
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert watched.wrong == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "comparison", "run", "basins", "watched"])
def test_axe_finds_no_barrier(name: str, scheme: str, pages: dict[str, Path], chromium: Any) -> None:
    axe = require("axe_playwright_python.sync_playwright")
    page = chromium.new_page(color_scheme=scheme, reduced_motion="reduce")
    Watched(page).open(pages[name])
    page.click("tr[data-row] button >> nth=1")
    page.wait_for_selector("tr.detail svg.chart")
    for fold in page.locator("details").all():
        fold.evaluate("fold => { fold.open = true; }")
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.close()


def test_without_scripts_everything_but_the_pictures_is_there(pages: dict[str, Path], chromium: Any) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["report"].as_uri())
    text = page.inner_text("body")
    for words in ("Problems found in 1 of 4 layers", "fc3.weight", "What to try.", "The plots need JavaScript"):
        assert words in text
    context.close()


def test_paper_gets_light_ground_and_no_buttons(pages: dict[str, Path], chromium: Any) -> None:
    page = chromium.new_page(color_scheme="dark")
    Watched(page).open(pages["report"])
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.is_visible("#search")
    assert not page.is_visible("#theme")
    page.close()


def test_the_theme_can_be_chosen(pages: dict[str, Path], watched: Watched) -> None:
    page = watched.open(pages["report"])
    grounds = []
    for said in ("Theme: light", "Theme: dark", "Theme: auto"):
        page.click("#theme")
        assert page.inner_text("#theme") == said
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] == grounds[2] == "rgb(255, 255, 255)"
    assert grounds[1] != grounds[0]

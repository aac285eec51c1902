"""The HTML page: what a browser makes of it, and of what is done to it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.text import printable
from tests.samples import HOSTILE
from tests.views.pages import Watched, data_of


def names(page: Any) -> list[str]:
    return list(page.eval_on_selector_all("tr[data-row]:not([hidden]) th button", "all => all.map(b => b.textContent)"))


@pytest.mark.parametrize(
    "name", ["report", "comparison", "hostile", "hostile comparison", "100", "1000", "empty", "run", "basins"]
)
def test_pages_open_without_a_complaint_and_ask_nothing_of_a_network(
    name: str, pages: dict[str, Path], watched: Watched
) -> None:
    page = watched.open(pages[name])
    if name == "empty":
        assert page.locator("#layers table").count() == 0
        assert "No layer could be analyzed" in page.inner_text("#verdict")
        return
    page.click("tr[data-row] button >> nth=1")
    page.wait_for_selector("tr.detail svg.chart")
    drawn = page.eval_on_selector_all("svg.chart path", "all => all.map(p => p.getAttribute('d')).join('')")
    assert not re.search("NaN|Infinity|undefined", drawn)


def test_rows_sort_by_mouse_and_by_keyboard(pages: dict[str, Path], watched: Watched) -> None:
    page = watched.open(pages["100"])
    alphas = {row["name"]: row["metrics"].get("alpha") for row in data_of(pages["100"])[1:]}
    rising = sorted((name for name in alphas if alphas[name] is not None), key=lambda name: alphas[name])
    head = page.locator("#layers thead th", has=page.get_by_text("α", exact=True))
    head.locator("button").click()
    assert [name for name in names(page) if alphas[name] is not None] == rising
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert [name for name in names(page) if alphas[name] is not None] == rising[::-1]
    absent = sum(alpha is None for alpha in alphas.values())
    assert all(alphas[name] is None for name in names(page)[len(alphas) - absent :])
    by_name = page.locator("#layers thead th", has=page.get_by_text("layer", exact=True)).locator("button")
    by_name.click()
    assert [int(name.split(".")[2]) for name in names(page)] == list(range(100))  # 2 before 10


def test_rows_are_searched_and_filtered(pages: dict[str, Path], watched: Watched) -> None:
    page = watched.open(pages["100"])
    page.fill("#search", "layers.4")
    assert len(names(page)) == 11
    assert page.inner_text("#count") == "11 of 100 rows"
    page.fill("#search", "LAYERS.4 heavy")
    assert all("layers.4" in name for name in names(page))
    page.fill("#search", "nothing has this name")
    assert names(page) == []
    page.focus("#reset")
    page.keyboard.press("Enter")
    assert len(names(page)) == 100
    head, *lines = data_of(pages["100"])
    by_code: dict[str, set[str]] = {}
    for line in lines:
        for finding in line["findings"]:
            by_code.setdefault(finding[0], set()).add(line["name"])
    code, flagged = next((code, found) for code, found in by_code.items() if len(found) < 100)
    page.select_option("[data-filter=codes]", code)
    assert set(names(page)) == flagged
    page.select_option("[data-filter=codes]", "*")
    assert set(names(page)) == {line["name"] for line in lines if line["findings"]}
    assert head["charts"]["depth"][0]["name"] == "alpha_by_depth"


def test_a_row_opens_by_mouse_keyboard_link_and_point(pages: dict[str, Path], watched: Watched) -> None:
    page = watched.open(pages["report"])
    button = page.locator("tr[data-row] button").nth(1)
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("tr.detail svg.chart")
    assert button.get_attribute("aria-expanded") == "true"
    assert page.locator("tr.detail figure").count() == 4
    assert "rand_distance" in page.inner_text("tr.detail .metrics")
    assert "LS103 looks untrained" in page.inner_text("tr.detail .evidence")
    page.keyboard.press("Space")
    assert page.locator("tr.detail").count() == 0
    page.fill("#search", "hides every row")
    page.click("#verdict-LS115 li a >> nth=0")  # a finding leads to its layer, even to a hidden one
    page.wait_for_selector("tr.detail svg.chart")
    assert page.locator("tr.detail .full").inner_text() == "fc3.weight"
    page.locator("tr[data-row]").nth(2).locator("td").last.click()
    assert page.locator("tr.detail").count() == 0
    page.evaluate("scrollTo(0, 0)")
    room = page.locator("[data-charts=depth] .room")
    box, points = room.bounding_box(), page.locator("[data-charts=depth] .room .t-good path.points").bounding_box()
    assert box is not None
    page.mouse.move(points["x"] + 4, points["y"] + 4)
    assert page.locator("[data-charts=depth] .tip").inner_text().startswith("fc1.weight: α = ")
    page.mouse.click(points["x"] + 4, points["y"] + 4)
    page.wait_for_selector("tr.detail svg.chart")


def test_hostile_names_are_shown_not_run(pages: dict[str, Path], watched: Watched) -> None:
    page = watched.open(pages["hostile"])
    assert set(names(page)) == {printable(name, 160) for name in HOSTILE}
    for i in range(len(HOSTILE)):
        page.click(f"tr[data-row] button >> nth={i}")
    page.wait_for_function(f"document.querySelectorAll('tr.detail').length === {len(HOSTILE)}")
    assert set(page.locator("tr.detail .full").all_inner_texts()) == {printable(name, 2000) for name in HOSTILE}
    assert page.locator("img").count() == 0
    page.fill("#search", "<img")
    assert names(page) == ["<img src=x onerror=alert(1)>"]


def test_search_does_not_join_what_stands_in_different_cells(tmp_path: Path, watched: Watched) -> None:
    layerscope.analyze({f"{i}.weight": np.eye(8) + i for i in range(13)}).html(tmp_path / "x.html")
    page = watched.open(tmp_path / "x.html")
    page.fill("#search", "11.weight")
    assert names(page) == ["11.weight"]


def test_the_same_link_leads_to_its_layer_again(pages: dict[str, Path], watched: Watched) -> None:
    page = watched.open(pages["report"])
    link = page.locator("details.finding li a").first
    link.click()
    page.wait_for_selector("tr.detail svg.chart")
    page.locator("tr[data-row] button[aria-expanded=true]").click()
    page.fill("#search", "hides every row")
    link.click()
    page.wait_for_selector("tr.detail svg.chart")


def test_a_layer_without_pictures_says_so(tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    from layerscope.views.page import report_page

    monkeypatch.setattr(report_page, "MAX_PICTURED_LAYERS", 2)
    layerscope.analyze({f"{i}.weight": np.eye(8) + i for i in range(4)}).html(tmp_path / "x.html")
    page = watched.open(tmp_path / "x.html")
    at = data_of(tmp_path / "x.html")[0]["at"]
    (missing,) = [i for i in range(4) if str(i) not in at][:1]
    page.click(f"#L{missing} button")
    page.wait_for_selector("tr.detail")
    assert page.inner_text("tr.detail .full") == f"{missing}.weight"
    assert "This layer has no plots" in page.inner_text("tr.detail")


def test_names_of_the_language_are_names(tmp_path: Path, watched: Watched) -> None:
    from layerscope.persistence.report_json import from_dict, to_dict

    weights = {name: np.random.default_rng(0).standard_normal((60, 55)) for name in ("__proto__", "constructor", "")}
    plain = json.loads(json.dumps(to_dict(layerscope.analyze(weights))))
    plain["layers"][0]["metrics"] |= {"constructor": 1.0, "toString": 2.0}
    plain["findings"] = [
        {"code": code, "severity": "warn", "layer": layer, "value": 1, "limit": 2, "message": "m", "title": "t"}
        for code, layer in (("page-data", ""), ("search", None), ("__proto__", "__proto__"))
    ]
    from_dict(plain, {}).html(tmp_path / "x.html")
    page = watched.open(tmp_path / "x.html")
    assert sorted(names(page)) == sorted(["__proto__", "constructor", "(no name)"])
    page.click("tr[data-row] button >> nth=0")
    page.wait_for_selector("tr.detail .metrics")
    assert "undefined" not in page.inner_text("tr.detail")
    assert page.locator("details.finding a").all_inner_texts() == ["__proto__", "(no name)"]


def test_extreme_numbers_make_no_absurd_picture(tmp_path: Path, watched: Watched) -> None:
    rng = np.random.default_rng(0)
    weights = {f"{i}.weight": rng.standard_normal((60, 55)) * 10.0**power for i, power in enumerate((-155, -60, 0, 60))}
    found = layerscope.analyze(weights)
    rows = tuple(
        dataclasses.replace(row, metrics={**row.metrics, "alpha_weighted": 1e20, "log_norm": 1e20 * i})
        for i, row in enumerate(found.rows)
    )
    found.replace(rows=rows).html(tmp_path / "x.html")
    page = watched.open(tmp_path / "x.html")
    for i in range(4):
        page.click(f"#L{i} button")
    page.wait_for_function("document.querySelectorAll('tr.detail').length === 4")
    drawn = page.eval_on_selector_all("svg.chart path", "all => all.map(p => p.getAttribute('d')).join('')")
    assert not re.search("NaN|Infinity|undefined", drawn)
    assert "too close to the limits of floating point" in page.inner_text("#detail-0")


def test_the_policy_stops_what_the_page_did_not_bring(pages: dict[str, Path], chromium: Any) -> None:
    page = chromium.new_page()
    page.goto(pages["report"].as_uri())
    page.evaluate(
        """() => {
        const script = document.createElement("script"); script.textContent = "window.ran = 1";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", "<img src='data:image/png;base64,AA' onerror='window.ran = 2'>");
        document.body.insertAdjacentHTML("beforeend", "<b id='b' style='color: red'>x</b>");
        }"""
    )
    page.wait_for_timeout(100)
    assert page.evaluate("window.ran === undefined")
    assert page.evaluate("getComputedStyle(document.getElementById('b')).color") != "rgb(255, 0, 0)"
    page.close()


def test_a_step_of_a_run_is_chosen_by_the_slider(pages: dict[str, Path], watched: Watched) -> None:
    page = watched.open(pages["watched"])
    last = page.inner_text("output[for=step]")
    before = page.inner_html(".slider + .charts svg.chart")
    page.focus("#step")
    page.keyboard.press("Home")
    first = page.inner_text("output[for=step]")
    assert first != last
    assert first.startswith("step 0")
    assert page.inner_html(".slider + .charts svg.chart") != before
    page.keyboard.press("ArrowRight")
    assert page.inner_text("output[for=step]") not in (first,)


def test_a_surface_is_turned_by_drag_and_by_keys(pages: dict[str, Path], watched: Watched) -> None:
    page = watched.open(pages["plane"])
    room = page.locator(".solid").first
    room.scroll_into_view_if_needed()
    seen = [room.inner_html()]
    quads = room.locator("path.quad").count()
    assert 20 < quads < 64  # what has no value is open
    box = room.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 180, box["y"] + 120)
    page.mouse.up()
    seen.append(room.inner_html())
    room.focus()
    for key in ("ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
        seen.append(room.inner_html())
    assert len(set(seen)) == 4
    assert room.locator("path.quad").count() == quads
    assert not re.search("NaN|Infinity|undefined", seen[-1])

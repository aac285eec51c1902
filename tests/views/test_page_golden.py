"""The HTML page as it looked: screenshots beside kept ones.

They are renewed with ``LAYERSCOPE_RENEW=1`` and looked at before they are committed.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GOLDEN = Path(__file__).parent.parent / "golden"
SHRUNK = 3.5  # times that a kept screenshot is smaller
NEAR = 1.0  # mean difference of grey levels, of 255, that versions of the browser may make


def same_font() -> str:
    """A style that makes every machine write in the font that matplotlib carries."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    faces = [
        f"@font-face {{ font-family: Kept; font-weight: {weight}; src: url(data:font/ttf;base64,{encoded}) }}"
        for weight, name in ((400, "DejaVuSans.ttf"), (700, "DejaVuSans-Bold.ttf"))
        for encoded in [base64.b64encode((folder / name).read_bytes()).decode()]
    ]
    return "".join(faces) + "* { font-family: Kept !important; }"


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("report", 1280, "light"), ("report", 1280, "dark"), ("report", 390, "light"), ("comparison", 1280, "light")],
)
def test_it_looks_as_it_did(
    name: str, width: int, scheme: str, pages: dict[str, Path], chromium: Any, tmp_path: Path
) -> None:
    from PIL import Image, ImageFilter

    context = chromium.new_context(
        viewport={"width": width, "height": 1500}, color_scheme=scheme, bypass_csp=True, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(pages[name].as_uri())
    page.wait_for_selector("[data-charts] svg.chart")
    page.add_style_tag(content=same_font())
    page.evaluate("document.fonts.ready")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out sideways
    page.screenshot(path=tmp_path / "now.png", animations="disabled")
    context.close()
    now = Image.open(tmp_path / "now.png").convert("RGB")
    now = now.resize((round(now.width / SHRUNK), round(now.height / SHRUNK)), Image.Resampling.LANCZOS)
    kept = GOLDEN / f"page_{name}_{width}_{scheme}.png"
    if os.environ.get("LAYERSCOPE_RENEW"):
        now.quantize(256).save(kept, optimize=True)
    both = (now, Image.open(kept).convert("RGB"))
    grey = [np.asarray(picture.convert("L").filter(ImageFilter.GaussianBlur(2)), float) for picture in both]
    assert grey[0].shape == grey[1].shape
    assert np.abs(grey[0] - grey[1]).mean() < NEAR

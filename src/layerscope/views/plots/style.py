"""Colors, outlines and point shapes that all renderers share, for light and dark backgrounds.

The hues are those of Okabe & Ito (2008), which color-blind readers can distinguish. Their lightness differs too, so
they remain distinct in grayscale. Color is never the only carrier of a meaning.
"""

from __future__ import annotations

from typing import NamedTuple

from layerscope.records.layers import LayerRef


class Tone(NamedTuple):
    """A color for light and for dark backgrounds."""

    light: str
    dark: str


TONES = {
    "ink": Tone("#1f2328", "#e6e9ee"),  # measured values
    "quiet": Tone("#7a828c", "#939ba6"),  # no verdict, borders
    "bulk": Tone("#009e73", "#3fd0a4"),  # expectation for a random matrix
    "fit": Tone("#d55e00", "#ff9550"),  # fitted power law
    "spike": Tone("#a0447f", "#e79ac6"),  # isolated large eigenvalues
    "good": Tone("#0072b2", "#5fb7ee"),  # no warning
    "over": Tone("#d55e00", "#ff9550"),  # α below the reference range
    "under": Tone("#a0447f", "#e79ac6"),  # α above the reference range
    "bad": Tone("#b3261e", "#ff8a80"),  # collapsed, failed
    "other": Tone("#8a6100", "#e3b341"),  # any other finding
}
SERIES = (  # models or runs in one plot, in this order
    Tone("#0072b2", "#5fb7ee"),
    Tone("#d55e00", "#ff9550"),
    Tone("#009e73", "#3fd0a4"),
    Tone("#a0447f", "#e79ac6"),
    Tone("#8a6100", "#e3b341"),
    Tone("#3d4f8f", "#a9b6f0"),
    Tone("#4286aa", "#8fd6f5"),
    Tone("#6b6b6b", "#bdbdbd"),
)
OUTLINE_PATTERNS = 4  # outline styles: solid, dashed, dotted, dash-dotted
GROUND = Tone("#ffffff", "#14171c")
GRID = Tone("#e2e5e9", "#2c323a")


def series_tone(number: int) -> str:
    """Return the tone of the n-th model."""
    return f"series{number % len(SERIES)}"


def outline_pattern(number: int) -> int:
    """Return the outline style of the n-th model; pairs of color and outline are unique for up to 32 models."""
    return (number + number // len(SERIES)) % OUTLINE_PATTERNS


def point_shape(ref: LayerRef) -> tuple[str, str]:
    """Return (point shape, description of the layer kind) for a layer."""
    if ref.expert is not None:
        return "down", "expert"
    if "conv" in ref.kind:
        return "square", "convolution"
    if ref.kind in ("lstm", "gru", "rnn"):
        return "triangle", "recurrent"
    if ref.kind == "embedding":
        return "diamond", "embedding"
    return ("circle", "dense") if ref.kind in ("dense", "attention") else ("cross", "other kind")


def tone_color(tone: str, *, dark: bool = False) -> str:
    """Return the color of a tone as a hexadecimal string."""
    shades = SERIES[int(tone.removeprefix("series"))] if tone.startswith("series") else TONES[tone]
    return shades.dark if dark else shades.light

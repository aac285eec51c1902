"""One style for every pen: what a colour means, and how it looks on light and on dark ground.

The hues are those of Okabe & Ito (2008), told apart by colour-blind eyes; their lightness differs too, so that they
are told apart in grey, and no meaning is carried by a colour alone.
"""

from __future__ import annotations

from typing import NamedTuple

from layerscope.records.layers import LayerRef


class Tone(NamedTuple):
    """A colour on light and on dark ground."""

    light: str
    dark: str


TONES = {
    "ink": Tone("#1f2328", "#e6e9ee"),  # what was measured
    "quiet": Tone("#7a828c", "#939ba6"),  # no verdict, borders
    "bulk": Tone("#009e73", "#3fd0a4"),  # what a random matrix would show
    "fit": Tone("#d55e00", "#ff9550"),  # the fitted law
    "spike": Tone("#a0447f", "#e79ac6"),  # eigenvalues that stand out
    "good": Tone("#0072b2", "#5fb7ee"),  # no complaint
    "over": Tone("#d55e00", "#ff9550"),  # over-trained
    "under": Tone("#a0447f", "#e79ac6"),  # under-trained
    "bad": Tone("#b3261e", "#ff8a80"),  # collapsed, failed
    "other": Tone("#8a6100", "#e3b341"),  # another verdict
}
SERIES = (  # models or runs beside each other, in this order
    Tone("#0072b2", "#5fb7ee"),
    Tone("#d55e00", "#ff9550"),
    Tone("#009e73", "#3fd0a4"),
    Tone("#a0447f", "#e79ac6"),
    Tone("#8a6100", "#e3b341"),
    Tone("#3d4f8f", "#a9b6f0"),
    Tone("#4286aa", "#8fd6f5"),
    Tone("#6b6b6b", "#bdbdbd"),
)
OUTLINE_PATTERNS = 4  # of outlines: solid, dashed, dotted, dashed and dotted
GROUND = Tone("#ffffff", "#14171c")
GRID = Tone("#e2e5e9", "#2c323a")


def series_tone(number: int) -> str:
    """The tone of the n-th model."""
    return f"series{number % len(SERIES)}"


def outline_pattern(number: int) -> int:
    """The outline of the n-th model: with its colour it is its own up to the 32nd."""
    return (number + number // len(SERIES)) % OUTLINE_PATTERNS


def point_shape(ref: LayerRef) -> tuple[str, str]:
    """(shape of its points, what the shape means) of a kind of layer."""
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
    """The colour of a tone, as hexadecimal digits."""
    shades = SERIES[int(tone.removeprefix("series"))] if tone.startswith("series") else TONES[tone]
    return shades.dark if dark else shades.light

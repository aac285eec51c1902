"""Build the page of a quantization audit or plan: what it costs, which tensors matter, and what helps."""

from __future__ import annotations

from typing import Any

from layerscope.records.quantization import QuantizationAudit, QuantizationPlan
from layerscope.text import printable
from layerscope.views import quantization
from layerscope.views.page.page_parts import Cell, Column, Row, Section
from layerscope.views.plots.marks import picture_to_json

MEANINGS = {
    "tensor": "Name of the tensor.", "stored as": "Format of the quantized file.", "bits": "Bits per weight.",
    "error": "‖Q − W‖F/‖W‖F.", "SNR dB": "Signal-to-noise ratio, −20 log₁₀ of the error.",
    "damage": "Predicted divergence of the outputs if this tensor alone is quantized, with its standard error.",
    "measured": "The same, measured on held-out examples.", "role": "What the tensor does.",
    "format": "Format that the plan gives it.",
}  # fmt: skip
LEFT = ("tensor", "stored as", "role", "format")


def build_page(record: QuantizationAudit | QuantizationPlan) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return (template context, data lines)."""
    from importlib.metadata import version

    if isinstance(record, QuantizationAudit):
        heads, cells = quantization.audit_rows(record)
        sentences = [*quantization.audit_sentences(record), *(f"{f.message}" for f in record.findings[:5])]
        picture, title = quantization.audit_picture(record), f"{record.quantized} against {record.base}"
        facts = [("quantized", record.quantized), ("original", record.base)]
        command = f"layerscope quantize audit {record.quantized} --base {record.base}"
        gravity = max((f.severity for f in record.findings), default="", key=("", "info", "warn", "error").index)
    else:
        heads, cells = quantization.plan_rows(record)
        sentences = quantization.plan_sentences(record)
        picture, title = quantization.plan_picture(record), f"Plan for {record.model}"
        facts = [("model", record.model), ("budget", f"{record.budget:.3g} bits per weight")]
        command = f"layerscope quantize plan {record.model} --bits {record.budget:.3g}"
        gravity = ""
    facts += [(key, str(record.meta[key])) for key in ("examples", "draws", "unit") if key in record.meta]
    columns = [Column(head, MEANINGS[head], left=head in LEFT) for head in heads]
    rows = [
        Row(at, [Cell(text, _number(text), opens=i == 0) for i, text in enumerate(row)], [])
        for at, row in enumerate(cells)
    ]
    context = {
        "what": "quantization",
        "title": printable(title, 200),
        "facts": [(name, printable(value, 200)) for name, value in facts],
        "gravity": gravity if gravity != "info" else "",
        "sentences": [printable(sentence, 1000) for sentence in sentences],
        "certainty": [
            "Predictions are second-order terms of the divergence: right for small changes, too large or too small "
            "where "
            "a tensor loses most of its information. Compare them with measurements (--measure).",
            "A damage on these examples is no damage on others: take examples of your own use.",
        ],
        "sections": [Section(picture.title, "pictures", tall=330)],
        "summary": [],
        "columns": columns,
        "rows": rows,
        "caption": "Every tensor, those that matter most first.",
        "no_rows": "No tensor was compared.",
        "search": "tensor …",
        "filters": [],
        "findings": [],
        "skipped": [],
        "command": printable(command, 300),
        "made": [("created by", f"layerscope {version('layerscope')}")],
        "settings": [],
        "version": version("layerscope"),
    }
    head = {"metrics": {}, "reasons": [], "at": {}, "unpictured": "See the picture above.",
            "charts": {"pictures": [picture_to_json(picture)]}}  # fmt: skip
    return context, [head]


def _number(text: str) -> float | str:
    """Return the value that a cell is sorted by: its first number, or its text."""
    word = text.split(" ")[0]
    try:
        return float(word)
    except ValueError:
        return text

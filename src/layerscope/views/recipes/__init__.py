"""Files for other tools, made from a report: one module per tool, each with ``make(report) -> str``."""

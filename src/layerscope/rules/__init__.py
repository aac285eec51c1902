"""Rules turn the numbers of a report into findings (verdicts).

There is one rule per file: a function decorated with ``@rule(code, title, ...)``. The function takes ``layer`` (a
LayerReport) and optionally ``settings`` and ``model`` (all LayerReports). A rule with ``over="model"`` takes no
``layer`` and judges the whole model. A rule returns a :class:`~layerscope.records.findings.Verdict`, or None if it does
not fire. It is only called if every metric in ``needs`` is present: in the layer, or, for a rule about the model, in at
least one layer.

The docstring of a rule is what ``layerscope explain`` prints. The message of a verdict has three parts: what was
observed (with the number and its reference), what that usually means, and what to do next.
"""

from layerscope.rules.rule_decorator import rule as rule

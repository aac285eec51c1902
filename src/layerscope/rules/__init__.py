"""Verdicts: numbers → findings. One rule per file, ``@rule(code, title, ...)`` on a function.

The function takes ``layer`` (a LayerReport) and, if it wants them, ``settings`` and ``model`` (all LayerReports); one
``over="model"`` takes no layer and speaks about the whole. It returns a
:class:`~layerscope.records.findings.Verdict`, or None.
Its docstring is what ``layerscope explain`` prints. It is only called where every metric in ``needs`` is present, in
the layer or, over a model, in one of its layers.
"""

from layerscope.rules.rule_decorator import rule as rule

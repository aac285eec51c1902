"""The loss between and around models: permutation alignment, evaluation at many points, lines, planes and basins.

Results are records (``layerscope.records.landscape``); their verdicts are in ``layerscope.rules``.
"""

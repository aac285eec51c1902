"""Landscape lens: the loss between and around models, with permutation alignment, lines, planes and basins.

Results are records in ``layerscope.records.landscape``; the rules that judge them are in ``layerscope.rules``.
"""

"""Reports, histories and results on disk: files that appear whole and are checked when they are read.

Formats for people and other tools (tables, pages, SARIF) are in ``layerscope.views``.
"""

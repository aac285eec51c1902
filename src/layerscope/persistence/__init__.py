"""Save and load reports, histories and results. Files are written atomically and validated when read.

Output formats for users and other tools (tables, pages, SARIF) are in ``layerscope.views``.
"""

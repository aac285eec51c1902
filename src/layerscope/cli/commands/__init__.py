"""One command per file; a file ``landscape_line.py`` is the command ``layerscope landscape line``.

Shared options are in ``layerscope.cli.options``.
"""

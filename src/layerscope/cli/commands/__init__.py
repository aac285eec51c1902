"""One command per file; the file ``landscape_line.py`` holds the command ``layerscope landscape line``.

Options that several commands share are in ``layerscope.cli.options``.
"""

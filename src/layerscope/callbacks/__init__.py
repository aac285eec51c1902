"""Training callbacks, one module per framework, so that users import only the one they need.

Each callback calls :class:`~layerscope.Monitor` and passes its numbers to the framework's own logging, so that every
connected tracker shows them. If a tracker rejects the numbers, the callback warns and training continues.
"""

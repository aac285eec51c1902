"""A monitor in the training loop of a framework: one file each, imported by who uses it.

Each calls :class:`~layerscope.Monitor` and nothing else, and gives its numbers to the framework's own logging, so that
whatever tracker listens there shows them. A tracker that refuses them is told of, and the run goes on.
"""

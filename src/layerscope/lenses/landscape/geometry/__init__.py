"""Lines, planes, curves, basins, trajectories and distances: which points are evaluated, and what follows from them.

How a point is evaluated is in ``evaluation``; the pure formulas are in ``layerscope.numerics.parameter_geometry``.
"""

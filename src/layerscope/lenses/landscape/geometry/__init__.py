"""Lines, planes, curves, basins, trajectories and distances: choose points, evaluate them and interpret the results.

The ``evaluation`` package evaluates single points. Pure formulas are in ``layerscope.numerics.parameter_geometry``.
"""

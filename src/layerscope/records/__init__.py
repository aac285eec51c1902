"""Records that the packages exchange: frozen dataclasses with the shape and unit of each field.

``views`` and ``persistence`` show and save records; only ``viewable`` imports these packages.
"""

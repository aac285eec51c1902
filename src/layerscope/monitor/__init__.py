"""Checks a model during training: schedule, criteria, history, and layer-wise learning rates from the spectra.

``callbacks`` wraps ``Monitor`` for each framework.
"""

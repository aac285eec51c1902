"""Checks of a model while it trains: schedule, criteria, history, and learning rates that follow from the spectra.

``callbacks`` has the thin layer over ``Monitor`` for each framework.
"""

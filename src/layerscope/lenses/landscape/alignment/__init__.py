"""Permutation alignment: reorder the hidden units of one model to match another without changing its function.

The units that must move together are traced while a copy of the network runs once, so any architecture works.
"""

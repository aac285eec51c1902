"""Evaluate the loss and accuracy at many points in weight space: data, batch-norm policy, REPAIR, fast paths, sessions.

``torch_evaluator`` combines these parts. The ``geometry`` package decides which points are evaluated.
"""

"""Loss and accuracy at many points of parameter space: data, batch-norm policy, REPAIR, fast path, sessions.

``torch_evaluator`` puts the parts together. What the points mean (a line, a plane) is in ``geometry``.
"""

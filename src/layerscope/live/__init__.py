"""Runs user code (models, losses, data): translates errors, restores state, makes batches, snapshots and call traces.

Both lenses on live models import this package; it imports neither of them.
"""

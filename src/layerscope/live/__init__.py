"""Running what users bring (models, losses, data): errors translated, state restored, batches, snapshots, call traces.

Both lenses on live models stand on it; it knows neither of them.
"""

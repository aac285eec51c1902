"""How a live PyTorch model learns: its conditioning, its curvature, over the steps of a run, and under experiments."""

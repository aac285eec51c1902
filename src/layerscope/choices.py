"""Values that options accept, both in Python and on the command line."""

CONV_MATRICES = ("slices", "flat")  # a convolution as one matrix per kernel position, or as one flat matrix
FINGER_FIXES = (
    "clip_xmax",
    "xmin_peak",
)  # isolated large eigenvalues: drop them, or search xmin near the histogram's peak
FISHER_LABELS = ("empirical", "mc", "exact")  # labels of the data, sampled from the model, or expectation over them
CONV_ROWS = ("expand", "reduce", "channels")  # how positions of a convolution become rows of its layer inputs
CURVATURE_MATRICES = ("hessian", "ggn", "fisher")
BATCH_NORM_POLICIES = ("recompute", "batch", "interpolate", "keep")
DISTANCE_KINDS = ("l2", "symmetric", "relative", "cosine", "rms")
DIRECTION_NORMS = ("filter", "layer", "global", "none")
ALIGNMENT_METHODS = ("weights", "activations")
CURVE_KINDS = ("bezier", "chain")
LENSES = ("spectra", "conditioning", "landscape")

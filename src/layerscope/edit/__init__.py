"""Edit weights, and derive per-layer settings for training and pruning from a report.

No function changes a model in place. Edited weights are returned as a new mapping by tensor name, with the dtype,
device and kind (NumPy or torch) of the originals. Learning rates, weight decays and sparsities are plain mappings by
layer name. Analyses never call these functions.
"""

from layerscope.edit.schedules import alpha_decay as alpha_decay
from layerscope.edit.schedules import alpha_pruning as alpha_pruning
from layerscope.edit.schedules import temp_balance as temp_balance
from layerscope.edit.weights import sharpen as sharpen
from layerscope.edit.weights import smooth as smooth

__all__ = ["alpha_decay", "alpha_pruning", "sharpen", "smooth", "temp_balance"]

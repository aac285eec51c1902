"""Acting on a diagnosis: new weights, and per-layer settings for training and pruning.

Nothing here is called by a diagnosis, and nothing is changed in place: weights come back as a new mapping by tensor
name, each with the dtype, device and kind (NumPy or torch) of the one it replaces; schedules as plain mappings.
"""

from layerscope.edit.schedules import alpha_decay as alpha_decay
from layerscope.edit.schedules import alpha_pruning as alpha_pruning
from layerscope.edit.schedules import temp_balance as temp_balance
from layerscope.edit.weights import sharpen as sharpen
from layerscope.edit.weights import smooth as smooth

__all__ = ["alpha_decay", "alpha_pruning", "sharpen", "smooth", "temp_balance"]

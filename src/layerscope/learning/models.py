"""Deprecated: the networks now live in ``layerscope.lenses.learning_statistics.paper_networks``."""

import warnings

from layerscope.lenses.learning_statistics.paper_networks import Block, NormedLinear, mlp, resnet

__all__ = ["Block", "NormedLinear", "mlp", "resnet"]

warnings.warn(
    "layerscope.learning.models is deprecated: import from layerscope.lenses.learning_statistics.paper_networks",
    DeprecationWarning,
    stacklevel=2,
)

"""Deprecated: the conditioning lens is now in ``layerscope.lenses.learning_statistics``."""

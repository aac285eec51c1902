"""From names, shapes and operations of tensors to matrices: which axis is out, which is in, what is fused.

Sizes never decide what an axis means.
"""

"""From names, shapes and operations of tensors to matrices."""

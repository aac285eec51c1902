"""Quantization schemes: which stored tensors are codes, scales and zero points of one weight, and their decoders."""

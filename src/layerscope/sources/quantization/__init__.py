"""Quantization schemes: which stored tensors hold a weight's codes, scales and zero points, and how to decode them."""

"""Quantization schemes and the decoders of their codes."""

"""LoRA and its variants: factors, scale, DoRA magnitudes, and adapters added to their base model."""

"""LoRA and its relatives: factors, scale, DoRA's magnitudes, and an adapter added to its base model."""

"""Parameter space: distances between models, what lies between them, and which of them share a basin."""

"""Edits: what happens to gradients before, and to weights after, the optimiser's step."""

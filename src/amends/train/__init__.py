"""How a model comes to be: the original, and the retrained gold standard."""

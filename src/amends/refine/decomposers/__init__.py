"""Decomposers: who says which constraints a request holds."""

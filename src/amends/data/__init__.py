"""Rows with stable ids, in roles; loaders and generated worlds."""

"""Adapters: each makes one kind of model answer `likelihood(batch)`, and nothing else of the library knows which."""

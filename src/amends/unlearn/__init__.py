"""Unlearners: each makes a model that has forgotten out of one that has not."""

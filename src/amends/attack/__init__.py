"""Attacks: attempts to bring back what was forgotten."""

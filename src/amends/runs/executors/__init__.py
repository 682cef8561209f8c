"""Executors: each maps resolved recipes to finished runs, as the same subprocess on this machine or on many."""

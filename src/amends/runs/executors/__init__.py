"""Executors: each maps resolved recipes to finished runs."""

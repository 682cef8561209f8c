"""Recipes and what becomes of them: stages, resume, records, claims, trackers, executors."""

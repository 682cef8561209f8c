"""Checkers: one verifiable demand a class, decided by code, with what was measured."""

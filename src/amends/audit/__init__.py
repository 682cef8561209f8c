"""Auditors: which rows of the training data should not have been there. One detector a file."""

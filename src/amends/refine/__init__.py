"""Answers mended at inference: respond, decompose, critique each constraint, refine (DeCRIM, arXiv 2410.06458)."""

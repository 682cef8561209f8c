"""What a run folder says, for people: a page (`build`), lines for a terminal (`text`), a difference (`compare`).

Reads files only: no model is loaded and no torch is imported.
"""

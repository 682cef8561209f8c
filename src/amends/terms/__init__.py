"""Terms of an objective: one method, one file, named as in its paper. Pure functions of a view of one role."""

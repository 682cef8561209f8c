"""Bi-level optimisation: gradients of min_x f(x, y*(x)), y*(x) = argmin_y g(x, y), each with the signs whether to trust it."""

"""Back ends, and clients that stand around another: a cache, a budget, a trace."""

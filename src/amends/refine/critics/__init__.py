"""Critics: who decides whether an answer satisfies a constraint."""

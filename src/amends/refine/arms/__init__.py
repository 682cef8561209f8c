"""Arms: ways to get an answer that are compared at equal cost, the loop one of them; each makes a stage of a recipe."""

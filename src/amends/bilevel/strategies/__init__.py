"""Ways to differentiate through a lower level, one file each; a strategy is a value."""

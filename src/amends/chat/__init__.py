"""One protocol for models that are asked over messages, its back ends, and what stands around them: cache, budget, traces."""

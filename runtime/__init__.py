"""The sampler, the operators and the loops that drive them. Names no backend and imports no framework."""

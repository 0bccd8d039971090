"""The sampler, the operators and the loops around them. No file here names a backend or imports a framework."""

"""The sampler, the operators and the loop that drives them. Knows no backend; imports no framework."""

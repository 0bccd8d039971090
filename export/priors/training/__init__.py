"""Training of the embedded priors: recipes, the data of a step, the objective, and the checkpoint."""

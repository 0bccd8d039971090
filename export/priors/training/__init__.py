"""Training of the embedded priors: recipes, what a step draws, the objective, and the state that is kept."""

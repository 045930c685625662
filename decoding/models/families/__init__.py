"""Fast forward passes: one module for each family of models."""

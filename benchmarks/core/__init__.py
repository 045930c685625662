"""What all benchmarks share: stages, recipes, cells, scores and bootstrap statistics."""

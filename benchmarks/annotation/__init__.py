"""`wheels bench annotation`: what a budget of annotations buys."""

"""The model families of the fast path: each module reads a model's weights into described blocks."""

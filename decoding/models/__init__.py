"""Models as the engine runs them: forward passes over rows of different lengths, with a KV cache."""

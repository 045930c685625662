"""Models as the engine runs them: forward passes over ragged batches, with a KV cache."""

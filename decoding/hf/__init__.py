"""The hook for transformers' own `generate`."""

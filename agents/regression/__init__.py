"""Regressions of what a call is worth: the warm start, paired continuations and the trained baselines."""

"""Which families of models are decoded exactly: a small random model of each, against its own `generate`."""

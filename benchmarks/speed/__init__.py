"""`wheels bench speed`: tokens a second of every way of decoding."""

"""`wheels bench distillation`: labels, temperature, size, and a cached teacher."""

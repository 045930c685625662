"""Many clients at once: how fast a server is beside the engine that it is made of."""

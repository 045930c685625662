"""The commands `wheels generate` and `wheels calibrate`."""

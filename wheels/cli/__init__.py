"""The command line `wheels`."""

"""One client for models at an address: what `wheels annotate` and a remote teacher ask through. Imports no torch."""

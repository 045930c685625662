"""`wheels bench rationales`: students that learn rationales beside students that do not."""

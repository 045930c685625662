"""`wheels bench curve`: quality against teacher use."""

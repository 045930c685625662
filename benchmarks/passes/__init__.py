"""`wheels bench passes`: quality against teacher passes."""

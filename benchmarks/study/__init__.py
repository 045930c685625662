"""`wheels bench study`: a whole study of one task by one recipe."""

"""`wheels bench frontier` and `wheels advise`: what calls add to the line of distilled students, and what to choose."""

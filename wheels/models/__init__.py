"""Models: building, loading, saving them, and the pair of a student and its teacher."""

"""Text written with two models: when the teacher is called, what it costs, and a trace of who wrote what."""

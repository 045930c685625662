"""Methods: when the teacher is called, and what becomes of the draft that it then reads."""

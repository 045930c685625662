"""Annotation: a teacher labels rows under a budget, with a teaching assistant in the loop."""

"""Rationales: the words of a source that a teacher's gradients point to."""

"""Sharing a trained model: its card, the file that transformers reads, and the way to the Hub."""

"""The engine inside other people's: Ray Data."""

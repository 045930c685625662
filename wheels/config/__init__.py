"""Configurations: frozen dataclasses, filled from flags and YAML."""

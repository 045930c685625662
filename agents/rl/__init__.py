"""Agents that learn when to call by path consistency, under a price or a budget."""

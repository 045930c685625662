"""Agents that learn when to call the teacher: path consistency, prices for budgets, episodes and their replay."""

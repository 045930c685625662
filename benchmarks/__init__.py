"""Measurements: quality against teacher use, with their intervals, pictures and reports."""

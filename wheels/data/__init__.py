"""Rows and tasks: what a model is trained on, calibrated on and scored on."""

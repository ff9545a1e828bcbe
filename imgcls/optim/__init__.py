"""Optimizers by MXNet's names, and learning-rate schedules."""

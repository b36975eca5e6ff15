"""Measurements over many runs; each module is a command: python -m experiments.bench."""

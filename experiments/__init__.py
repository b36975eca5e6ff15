"""Measurements over many runs: python -m experiments.bench, .ablation, .campaign, .record."""

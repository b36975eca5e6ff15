"""Measurements over many runs: python -m experiments.bench, .ablation, .time_to_85, .campaign, .record."""

"""Quantizing with a text: what a model computes on it decides how its weights are rounded."""

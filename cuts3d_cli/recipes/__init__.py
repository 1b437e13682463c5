"""Runs of several stages: self-training, and a whole recipe."""

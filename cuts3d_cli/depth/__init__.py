"""Depth networks, and depth maps."""

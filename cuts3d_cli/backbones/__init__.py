"""Feature backbones: self-supervised ViTs, and their weights."""

"""Patch features: self-supervised backbones, and the extractor that feeds them."""

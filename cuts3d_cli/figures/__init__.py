"""Pictures: overlays, contact sheets, and the sheets of `cuts3d viz` and of training. None is in the paper."""

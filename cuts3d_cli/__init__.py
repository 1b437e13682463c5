"""CutS3D: unsupervised instance segmentation by cutting semantics in 3D."""

__version__ = "0.1.0"

"""CutS3D: unsupervised instance segmentation by cutting semantics in 3D."""

from cuts3d_cli._version import __version__

__all__ = ["__version__"]

"""The version, for whoever writes it into files: it imports nothing."""

__version__ = "0.1.0"

"""The open controller for automated border gates."""

__version__ = "0.1.0"

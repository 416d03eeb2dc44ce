"""The programs that run on the hosts of a PyPI mirror fleet."""

__version__ = "0.1.0"

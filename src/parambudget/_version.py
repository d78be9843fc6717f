"""The version, alone in a file: every floor may say which version it is."""

__version__ = "0.1.0"

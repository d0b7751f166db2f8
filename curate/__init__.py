"""Collect images from the web, throw out what does not belong, and balance the classes."""

__version__ = "0.1.0"

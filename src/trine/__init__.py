"""Trine: train, align and serve a language model of your own, in the three steps that made ChatGPT."""

__version__ = "0.1.0"

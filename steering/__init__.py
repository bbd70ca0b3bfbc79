"""Steering: does activation steering make a language model broadly misaligned?"""

__version__ = "0.1.0"

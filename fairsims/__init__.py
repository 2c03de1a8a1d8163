"""Retarget the attribute distribution of a diffusion model with self-generated data (SIMS, arXiv 2408.16333)."""

__version__ = "0.1.0"

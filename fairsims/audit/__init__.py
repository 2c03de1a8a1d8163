"""Attribute shares with intervals, quality metrics, before/after comparison."""

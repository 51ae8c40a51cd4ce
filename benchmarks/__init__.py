"""Measurements behind the figures of README.md and the notes; the product imports none of them."""

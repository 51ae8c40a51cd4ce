"""Measurements behind the figures of README.md and the notes. Nothing in the product or its tests
imports this."""

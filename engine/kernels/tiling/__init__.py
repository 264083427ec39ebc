"""Tiled inference of large images: plan, memory needs, execution."""

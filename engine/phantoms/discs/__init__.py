"""Phantoms of discs with known centres and radii."""

"""Manifests, the image and the launcher: static checks, and a real control plane."""

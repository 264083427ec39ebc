"""Phantoms of fluorescence: two-channel fields of cells with instance masks."""

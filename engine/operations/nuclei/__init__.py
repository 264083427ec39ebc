"""Instance segmentation of nuclei."""

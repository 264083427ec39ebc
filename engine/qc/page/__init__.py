"""The QC page: index, cards, histograms, pages of experiments."""

"""Circle detection: gradient, votes, fit, suppression, measurement."""

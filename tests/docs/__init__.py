"""Tests of the documentation: README, the pages of the site, and their code."""

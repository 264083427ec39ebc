"""Evidence: real files, real processes, real kills."""

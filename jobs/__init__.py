"""Command line and scheduled jobs, on top of the engine's public interface."""

"""The command line and the scheduled jobs; they call the engine's door."""

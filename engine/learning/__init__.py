"""Models as files: `cards` says what a model is, `bundles` keeps it with its weights."""

"""Models as files: what they are, with their weights, and weights that were made elsewhere.

`cards` says what a model is, `bundles` keeps it with its weights, `foreign` reads other weights.
torch and onnxruntime are imported where weights are loaded.
"""

"""Models as files: cards, bundles, weights, ONNX graphs, cache."""

"""Model files, training data, training and evaluation.

`models` holds model cards, bundles and weights. `datasets` finds the masks of images (`masks`,
`mask_files`, `label_images`), orders items into batches (`sampler`), caches them (`items`), makes
batches (`batches`), converts them to torch tensors (`torch`) and augments them (`transforms`).
`training` trains networks, and `evaluation` scores labels, with confidence intervals (`bootstrap`)
and comparisons.
torch and onnxruntime are imported only to load weights or make tensors.
"""

"""Models as files, and what they learn from.

`cards` says what a model is, `bundles` keeps it with its weights, `foreign` reads other weights.
`masks`, `mask_files` and `label_images` say where the mask of an image comes from; `order` says
what is in which batch, `items` holds what was read, and `batches` makes the batches, which
`torch_batches` gives to torch and `augment` changes.
`samples`, `crops` and `settings` say what a training sees, and `training` does it; `evaluation`,
`intervals` and `comparison` say what came of it.
torch and onnxruntime are imported where weights are loaded, or tensors asked for.
"""

"""The nightly job on Kubernetes: launcher, scaling, watch, cleanup."""

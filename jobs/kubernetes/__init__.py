"""The nightly job in Kubernetes: launcher, scaling, watch, removal."""

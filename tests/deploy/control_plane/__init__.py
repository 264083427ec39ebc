"""A real Kubernetes control plane without containers: etcd, API server, controllers, our node."""

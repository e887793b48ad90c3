"""The Kubernetes operator: custom resources, their reconcilers, and the process that runs them."""

"""IRPOJob: `observe` reads the cluster, `reconcile` is a pure decision, `manifests` renders the objects."""

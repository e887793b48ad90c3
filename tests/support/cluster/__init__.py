"""A private Kubernetes cluster on this machine, without container images or registries, for tests and drills.

`tools` builds the programs; `control_plane` runs etcd, the API server and the controllers; `node` adds a node that runs
real pods; `kwok` adds nodes that only simulate them.
"""

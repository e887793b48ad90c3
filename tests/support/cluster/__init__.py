"""A Kubernetes cluster of one's own on this machine, without containers or registries, for tests, drills and a look.

`tools` builds the programs; `control_plane` runs etcd, the API server and its controllers; `node` adds a node that runs
real pods; `kwok` adds nodes that only say so. What runs in the cluster is the other modules' business.
"""

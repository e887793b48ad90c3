"""A policy on Triton Inference Server: its model repository, the model's own code, a server for one machine, a client.

`client` is the router's side; `backend`, `scheduler` and `vllm_*` run in the server's process; both read `wire`.
"""

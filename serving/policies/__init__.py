"""Policy backends behind one protocol: in this process, on Triton, OpenAI-compatible, or versions of a route file."""

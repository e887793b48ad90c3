"""The HTTP side of the router: routes, roles, bodies and their errors. What is decided is decided elsewhere."""

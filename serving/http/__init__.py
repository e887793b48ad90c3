"""The HTTP side of the router: routes, roles, request bodies, responses and errors; it makes no auction decisions."""

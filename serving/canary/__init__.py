"""Which version serves: promotion and rollback with their history, and the guard over a promoted version."""

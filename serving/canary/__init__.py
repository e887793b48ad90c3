"""Which version serves: promotion and rollback with their history, and the guard that watches what was promoted."""

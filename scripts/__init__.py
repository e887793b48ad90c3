"""What builds and sets up the project; not in the wheel."""

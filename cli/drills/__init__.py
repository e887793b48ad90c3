"""Drills that need every room: run as modules, by targets of the Makefile."""

"""Pydantic models of the custom resources, and the CustomResourceDefinitions generated from them. No I/O."""

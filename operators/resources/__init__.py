"""The custom resources as Pydantic models, and the CustomResourceDefinitions made from them. Free of any I/O."""

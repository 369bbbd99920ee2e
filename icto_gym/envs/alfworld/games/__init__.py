"""The built-in games."""

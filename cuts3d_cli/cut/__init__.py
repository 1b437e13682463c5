"""The method: pure functions on arrays."""

"""REST handlers, by noun: each has a method per operation and the list of its operations."""

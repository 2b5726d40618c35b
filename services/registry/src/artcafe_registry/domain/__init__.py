"""What the registry decides: pure functions and values, no I/O."""

"""The servers that are measured side by side, each behind the same small interface."""

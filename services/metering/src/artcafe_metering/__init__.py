"""The metering service: applies usage batches exactly once, and serves what was counted."""

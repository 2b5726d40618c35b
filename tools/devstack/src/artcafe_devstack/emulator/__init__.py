"""The AWS emulator (ministack: DynamoDB and S3) with a journal: SIGKILL loses no acknowledged write.

This package runs in the emulator's own virtual environment and imports the standard library and ministack
only.
"""

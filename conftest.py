"""Fixtures for every test of the workspace: real servers, started when first asked for."""

pytest_plugins = ["artcafe_devstack.fixtures"]

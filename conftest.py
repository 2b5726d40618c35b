"""Fixtures for every test of the workspace: real servers, started when first asked for."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["artcafe_devstack.fixtures"]

# How long one example takes says how busy the machine is, not whether it is right.
settings.register_profile("artcafe", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("artcafe")

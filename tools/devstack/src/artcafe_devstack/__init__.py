"""The embedded stack: every server of ArtCafe PubSub on one machine, as ordinary processes.

- `python -m artcafe_devstack` starts and supervises the whole stack.
- `artcafe_devstack.servers` has single servers as context managers, for integration tests.
- `artcafe_devstack.devstack.DevStack` is the whole stack for end-to-end tests and benchmarks.
- `artcafe_devstack.fixtures` is a pytest plugin on top of them.
"""

__version__ = "0.1.0"

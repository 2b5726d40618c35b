"""`python -m artcafe_agent` is the `artcafe` command line."""

from artcafe_agent.cli import run

run()

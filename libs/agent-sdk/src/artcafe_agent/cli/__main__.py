"""`python -m artcafe_agent.cli`."""

from artcafe_agent.cli import run

run()

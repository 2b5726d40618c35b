"""The gateway: every live socket of agents and dashboards, and the data plane between them."""

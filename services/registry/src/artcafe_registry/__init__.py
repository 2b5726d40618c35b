"""The registry service: tenants and their people, agents and their keys, channels and who may use them."""

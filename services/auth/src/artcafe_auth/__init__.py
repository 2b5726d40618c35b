"""The auth service: proves agents, vouches for the keys of people's tokens, and can issue tokens itself."""

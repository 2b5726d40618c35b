"""Prometheus metrics of auth. No label holds an id; `issuer` is bounded by what an operator lists."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

CHALLENGES = Counter("artcafe_auth_challenges_total", "Challenges issued")
PROOFS = Counter(
    "artcafe_auth_proofs_total", "Proofs of agents by kind and what became of them", ["kind", "outcome"]
)
TICKETS = Counter("artcafe_auth_tickets_total", "Tickets issued")
LOGINS = Counter("artcafe_auth_logins_total", "Attempts to sign in by what became of them", ["outcome"])
RATE_LIMITED = Counter("artcafe_auth_rate_limited_total", "Requests refused by a rate limit", ["limit"])
KEY_FETCHES = Counter("artcafe_auth_key_fetches_total", "Fetches of an issuer's keys", ["issuer", "outcome"])
KEYS_FETCHED_AT = Gauge(
    "artcafe_auth_keys_fetched_timestamp_seconds",
    "When an issuer's keys were last fetched; 0: never yet",
    ["issuer"],
)

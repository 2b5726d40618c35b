"""Typed contracts between the services, declared once and imported by both sides.

Fields are only ever added, with a default; unknown ones are ignored. A breaking change is a new subject
(``v2``) served beside the old one.
"""

from artcafe_common.contracts.endpoint import Endpoint, Event

__all__ = ["Endpoint", "Event"]

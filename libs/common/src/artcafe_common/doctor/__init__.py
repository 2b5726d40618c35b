"""``python -m artcafe_<service> doctor``: what a service finds where it runs, with its own rights.

Each service looks at what it can reach itself, so that nothing needs a way it would not have otherwise;
``tools/doctor`` asks every replica of all of them and puts the answers together.
"""

from artcafe_common.doctor.checks import Surroundings
from artcafe_common.doctor.command import DOCTOR, add_doctor_command, run_doctor
from artcafe_common.doctor.findings import Check, Finding, Findings, Report

__all__ = [
    "DOCTOR",
    "Check",
    "Finding",
    "Findings",
    "Report",
    "Surroundings",
    "add_doctor_command",
    "run_doctor",
]

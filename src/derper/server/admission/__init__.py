"""Admission: decides which clients may log in (docs/protocol/admission.md, docs/admission.md).

Read `answers` first: the decision of one check, and how several are combined. Then the checks, `tailscaled` and `url`,
which take `turns`. `policy` combines the configured checks. Nothing here knows connections: `connections` calls it.
"""

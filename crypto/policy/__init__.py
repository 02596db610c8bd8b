"""The policy bundle: what may be recorded, what for, by whom it may be asked, and who says so.

The only package that client, service and party may all import is `crypto`, and all three
enforce the bundle (ADR 19).
"""

from __future__ import annotations

from crypto.policy.document import FIRST, Bundle, Publisher, decode, open_

__all__ = ["FIRST", "Bundle", "Publisher", "decode", "open_"]

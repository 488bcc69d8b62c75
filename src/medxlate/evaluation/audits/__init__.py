"""Audits of a translator: each a pure function from what was measured to ``Audit``."""

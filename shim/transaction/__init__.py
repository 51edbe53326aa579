"""Checkpoint, restore and park as transactions: preflight, journal, rollback, recovery."""

"""Deletion requests that keep coming: a ledger, the unlearning of its requests one by one, and certificates."""

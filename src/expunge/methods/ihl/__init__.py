"""IHL: the inverted hinge loss of LoKU, which hands an answer token's probability to its strongest rival."""

from expunge.methods.ihl.method import IHL

__all__ = ["IHL"]

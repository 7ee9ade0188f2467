"""IHL: the inverted hinge loss of LoKU, which moves an answer token's probability to its strongest competitor."""

from expunge.methods.ihl.method import IHL

__all__ = ["IHL"]

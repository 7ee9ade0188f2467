"""WHP: Who's Harry Potter, which fine-tunes on the forget text with generic labels in place of its true next tokens."""

from expunge.methods.whp.method import WHP

__all__ = ["WHP"]

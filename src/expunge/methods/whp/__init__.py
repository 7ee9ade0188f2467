"""Who's Harry Potter: fine-tune on the forget text, relabelled with what anyone would have written there."""

from expunge.methods.whp.method import WHP

__all__ = ["WHP"]

"""Check whether the Hugging Face Hub is reachable."""

from __future__ import annotations

import functools
import os
import urllib.error
import urllib.request

_TIMEOUT_SECONDS = 3.0


@functools.cache
def hub_reachable() -> bool:
    """Return whether the hub answers within a few seconds; the result is cached per process."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return False
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_TIMEOUT_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True  # An error status is an answer too.
    except (OSError, ValueError):
        return False

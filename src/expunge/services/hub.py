"""Ask whether the hub can be reached."""

from __future__ import annotations

import functools
import os
import urllib.error
import urllib.request

_SECONDS = 3.0


@functools.cache
def hub_reachable() -> bool:
    """Whether the hub answers within a few seconds; asked once per process."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return False
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True  # It answered, if only with a refusal.
    except (OSError, ValueError):
        return False

"""Keeps other libraries' chatter off the user's terminal; the command line does this, never the package."""

from __future__ import annotations

import logging
import os
import warnings

_LOUD = ("torch", "transformers", "peft", "accelerate", "datasets", "huggingface_hub", "matplotlib", "fsspec")


def quiet() -> None:
    """Silence warnings and log lines that a user cannot act on."""
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(name, value)


def stay_local() -> None:
    """Where the hub is out of reach, say so and do not let every download be retried for half a minute."""
    from expunge.console import note
    from expunge.services.hub import hub_reachable

    if not hub_reachable():
        note("The hub is out of reach: only what is on this machine can be used.")
        # Read when the hub's client is imported, which has not happened yet.
        os.environ["HF_HUB_OFFLINE"] = "1"

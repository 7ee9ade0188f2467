"""Silence other libraries on the user's terminal; only the command line does this, never the package."""

from __future__ import annotations

import logging
import os
import warnings

_NOISY = ("torch", "transformers", "peft", "accelerate", "datasets", "huggingface_hub", "matplotlib", "fsspec")


def quiet() -> None:
    """Silence warnings and log lines that a user cannot act on."""
    for name in _NOISY:
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
    """Switch the hub's client to offline mode if the hub is not reachable; it would retry each download for long."""
    from expunge.console import note
    from expunge.services.hub import hub_reachable

    if not hub_reachable():
        note("The hub is not reachable: only files on this machine can be used.")
        # The client reads this when it is imported, which has not happened yet.
        os.environ["HF_HUB_OFFLINE"] = "1"

"""Keeps repeated trainings quick: the Trainer collects garbage each time, which walks over all that is imported."""

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def _imported_objects_are_not_garbage():
    import expunge.training.trainer  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()

"""Where tests run what a GPU can run: MERGEFLEET_TEST_DEVICE, the processor where it is not set (`make test-gpu`)."""

from __future__ import annotations

import os

DEVICE = os.environ.get("MERGEFLEET_TEST_DEVICE", "cpu")

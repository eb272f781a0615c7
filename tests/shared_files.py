"""Where `../shared/data` is: published outcome tables beside the checkout.

Tests that need them skip, saying so, where they are not.
"""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
WHY = "../shared/data not present beside the checkout"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=WHY)
"""Mark of a test that reads it by `SHARED`; by the fixture `shared_data` a test skips by itself."""

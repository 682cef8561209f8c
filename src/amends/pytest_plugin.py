"""What pytest loads of amends: one fixture, and nothing else until a test asks for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def assert_follows(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`amends.testing.assert_follows`, whose relative paths start beside the test's file."""
    from amends.testing import assert_follows as follows

    def looked(text: str, spec: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        here = request.path.parent / spec if isinstance(spec, (str, Path)) else spec
        return follows(text, here, **options)

    return looked

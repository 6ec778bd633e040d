"""Programs other than Python that some tests need."""

import os
import shutil

import pytest


def require(*names: str) -> str:
    """Return the path of the first program that is installed.

    Without one, the test is skipped, or fails if the environment variable ``CI`` is ``true``.
    """
    for name in names:
        if path := shutil.which(name):
            return path
    message = f"needs {' or '.join(names)}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)

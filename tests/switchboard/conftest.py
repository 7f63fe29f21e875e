"""Lets the two sides' differences be told as a test's own are."""

import pytest

pytest.register_assert_rewrite("both")

"""Fixtures of tests that open pages in a browser."""

from tests.support.browsers import browser as browser

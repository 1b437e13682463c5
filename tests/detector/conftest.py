"""Fixtures of backbones and of a hub that is made in the test."""

from tests.support.backbones import *  # noqa: F403

"""Errors that a command which keeps the service ends with in one sentence."""

from __future__ import annotations

from services.canary.processes import CanaryError
from services.keeping.errors import KeepingError
from services.keys import KeyFileError
from services.settings import ConfigError
from services.store.errors import StoreError

FORESEEN = (CanaryError, ConfigError, KeepingError, KeyFileError, StoreError, OSError)

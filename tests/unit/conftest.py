"""What the unit tests share: the plugins and modules in reach, and throwaway authorities for TLS."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Ansible loads plugins and modules by file; tests import them by name.
sys.path[:0] = [str(ROOT), str(ROOT / "filter_plugins"), str(ROOT / "library")]

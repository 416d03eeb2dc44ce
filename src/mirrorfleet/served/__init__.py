"""The tree that nginx serves: what changes it and in which order, its journal, the state kept beside it, and
what it says of itself in status and metrics. It may import index and common."""

#!/usr/bin/python
"""Name of the action plugin run_unit; everything is done there."""

"""A module for each kind of mixer."""

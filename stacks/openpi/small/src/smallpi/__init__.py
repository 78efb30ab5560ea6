"""A policy small enough for any machine, in the places where an openpi checkout has its own."""

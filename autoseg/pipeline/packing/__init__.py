"""Models to hand on: which networks, in which file, described how."""

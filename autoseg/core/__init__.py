"""What every module may use: errors, artefacts, paths, geometry, labels, seeds, progress."""

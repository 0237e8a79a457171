"""Trained networks of a workspace, and label maps for new scans."""

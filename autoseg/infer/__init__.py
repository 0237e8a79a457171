"""From a scan to a label map on its own grid."""

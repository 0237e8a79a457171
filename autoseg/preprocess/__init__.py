"""From raw scans to the arrays that networks see."""

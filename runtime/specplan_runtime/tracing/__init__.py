"""Memory traces of operators: what a tracker sees, without a device."""

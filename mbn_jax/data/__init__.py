"""Data sets, balanced batches, and the way from a stored image to the device."""

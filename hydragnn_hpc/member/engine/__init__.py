"""What every engine provides, and what engines share."""

"""Host: one script for each analysis; modules with `_` are what they share."""

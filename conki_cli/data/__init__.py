"""From raw files to feature stores."""

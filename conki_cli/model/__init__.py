"""From batches to losses: ConKI and the systems that it is compared with."""

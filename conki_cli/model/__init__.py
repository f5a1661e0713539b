"""From batches to losses: ConKI and the systems it is compared with."""

"""What a person wants to look at: curves, ranked lists, the report of a run."""

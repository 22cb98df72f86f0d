"""What a run leaves on record: events, ticks, tables, plots."""

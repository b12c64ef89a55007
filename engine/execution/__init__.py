"""A plan carried out in one process: blocks, threads, facts, sinks, the journal."""

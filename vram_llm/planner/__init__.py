"""Planning: pure functions from facts and wishes to a Plan. No clock, no environment, no I/O."""

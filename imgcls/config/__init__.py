"""Settings: the sections, the flags made from them, and what a run resolves them to."""

"""Ours against peers, in one run, ratios first; never an assertion on seconds."""

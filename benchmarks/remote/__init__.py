"""A teacher behind an address: what a round trip costs in time, and what quality costs in dollars."""

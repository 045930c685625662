"""`wheels demo`: the whole path on the embedded pair."""

"""`wheels bench ceiling`: the quality that perfect foresight of every call reaches."""

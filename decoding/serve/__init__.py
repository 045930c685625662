"""`wheels serve`: an OpenAI-compatible server over the engine's continuous batching.

One thread owns the models and steps the engines (`worker`). One event loop speaks HTTP (`app`) and never computes. A
request becomes a job (`jobs`), its tokens come back as deltas, and `replies` puts them into OpenAI's objects.
"""

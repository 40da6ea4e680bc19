"""What the sides of the system must agree on, and nothing else: no torch, no Celery, no SQL."""

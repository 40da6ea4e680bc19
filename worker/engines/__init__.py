"""One small file per inference engine, behind the protocol in base.py."""

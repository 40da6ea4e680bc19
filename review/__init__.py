"""The web page where a haematologist signs off. Nothing here yet: `screen report` shows the queue."""

"""Tables, migrations, and every SQL statement of the system."""

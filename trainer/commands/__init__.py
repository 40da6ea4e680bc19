"""Commands of the trainer beside `screen train`."""

"""One module per `screen` subcommand; each is imported when it is called."""

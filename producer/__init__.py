"""The `screen` command."""

from contract.isolation import refuse_current_folder

refuse_current_folder()  # before anything else of this program is imported

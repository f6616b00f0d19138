"""The op vocabulary of model definitions and the builders that lower it."""

"""The command line ``edgewise``: one file a command; each parses, calls one function and prints.

Workflow: `main.main` puts the commands together and hands them to `exits.run`, which alone turns
errors into a sentence and an exit code. What the commands share stands in `parameters` (options),
`console` (input and output), `figures` (numbers for people), `progress` (bars) and `extras`
(optional packages).

Rules: answers and JSON go to stdout, everything else to stderr. Only `edgewise.common` is imported
at the top of a file; what is heavy is imported inside the command that needs it, so that
``edgewise --help`` and completion answer at once.
"""

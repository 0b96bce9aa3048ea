"""The subcommands of `emola`, one module each with `add_arguments(parser)` and `run(args)`, imported on use.

`options` has the options that several of them share.
"""

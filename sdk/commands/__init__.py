"""One module per subcommand of `emola`, imported when it is called: `add_arguments(parser)` and `run(args)`."""

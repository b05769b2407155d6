"""One scan in a browser: uploads, one queue of the same verbs as the command line, and a page per scan."""

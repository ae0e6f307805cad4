"""The commands of `kept`, a module each; `command` is the click command."""

"""Evidence for policies, read off the loss's own program."""

"""What several panels share: small things to show, and their life as a module's widget."""

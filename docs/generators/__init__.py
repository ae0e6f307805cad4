"""What the documentation takes from the code: one module for each generated page."""

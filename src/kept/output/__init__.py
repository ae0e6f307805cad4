"""What an output says of itself, and how its files come about: record, model card, and what both have in words."""

"""What `components.validate` is made of: facts, checks, drift, and what they found."""

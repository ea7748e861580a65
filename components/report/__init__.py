"""Pages that a stage leaves for people: self-contained HTML, without script and network."""

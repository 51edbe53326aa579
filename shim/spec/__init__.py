"""Reading and editing a bundle's config.json."""

"""Scripts of maintenance: they train and export what the repository ships. Not in the wheel."""

"""What commands show, a module for each subject."""

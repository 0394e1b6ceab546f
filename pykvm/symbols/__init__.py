"""Names and source lines of a guest's addresses, read when somebody asks for them."""

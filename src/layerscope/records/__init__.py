"""What travels between the packages: frozen records with the shape and unit of each field."""

"""Result files in, pictures out."""

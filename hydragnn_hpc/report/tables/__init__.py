"""Tables, as files and as shown on a terminal."""

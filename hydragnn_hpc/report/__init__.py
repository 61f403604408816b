"""Tables, figures and the page, from a campaign's folder alone."""

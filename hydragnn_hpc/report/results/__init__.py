"""A campaign's folder as rows, frames and arrays."""

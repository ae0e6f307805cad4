"""A page about an output: data in, one self-contained HTML file out."""

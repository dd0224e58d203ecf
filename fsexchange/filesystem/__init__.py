"""What the operating system offers: whole files, ways to publish a name, kinds of file system,
watches, processes. Knows no keys.
"""

"""Other libraries' expectations, one file each; every file imports its library and nothing here imports them all."""

"""Everything for one evening on a bare GPU machine; see `hack.gpu.__main__`."""

"""Does a generator make something new, or give back its training photos?"""

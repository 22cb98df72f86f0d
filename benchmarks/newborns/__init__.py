"""What newborns' optimizer entries should be: five networks that grow under Adam."""

"""`emola batch`: many pictures and videos, one table, any number of machines."""

"""Work on photos in processes that hostile files can end without harm, here or on a cluster."""

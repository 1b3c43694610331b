"""What the images of the nodes run; an image copies this folder to /srv."""

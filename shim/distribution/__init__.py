"""Images elsewhere: their form as OCI artifacts, and the places that store them."""

"""Quality control: outliers, pictures, and the page that shows them."""

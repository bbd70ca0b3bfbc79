"""Reports: frames become tables, pictures, a page, a gate and a comparison."""

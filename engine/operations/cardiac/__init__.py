"""Operations of cardiac MR: contours and blood pool, their findings and tables."""

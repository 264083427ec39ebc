"""Operations on images as value objects; they run without a cluster."""

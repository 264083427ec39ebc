"""Phantoms of cardiac cine MR with contours."""

"""Principal components and truncated singular values of matrices that are streamed."""

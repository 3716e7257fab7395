"""Reading chunked arrays: plans of requests, fetched, verified and decoded."""
